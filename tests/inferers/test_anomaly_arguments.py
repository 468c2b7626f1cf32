"""The inferer of all methods: its arguments and inputs."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from helpers import IMAGE_CHANNELS, IMAGE_SIZE, random_slices, tiny_network
from masked_bernoulli_recording import inferer, run_slices

from scripts.data.selection import SliceSelector
from scripts.scores import evidence_map


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sw_batch_size": 0}, "sw_batch_size must be a whole number in [1, inf], got 0"),
        ({"sw_batch_size": -3}, "sw_batch_size must be a whole number in [1, inf], got -3"),
        ({"seed": -1}, "seed must be a whole number in [0, inf], got -1"),
        ({"anomaly_map": partial(evidence_map, name="kl")}, "needs evidence kl, RecordingMethod has mask_density"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        inferer(**changes)


def test_whole_numbers_may_be_floats():
    slices, network = random_slices(3), tiny_network()
    whole = run_slices(inferer(sw_batch_size=2), slices, torch.arange(3), network)
    floats = inferer(sw_batch_size=2.0, seed=3.0)
    assert torch.equal(run_slices(floats, slices, torch.arange(3), network).mask, whole.mask)


def test_progress_counts_every_step(capsys):
    run = inferer(progress=True, sw_batch_size=2, num_inference_steps=4)
    run_slices(run, random_slices(3), torch.arange(3), tiny_network())
    assert "/12 [" in capsys.readouterr().err
    run_slices(inferer(), random_slices(1), torch.arange(1), tiny_network())
    assert not capsys.readouterr().err


def test_single_slices_are_processed_whatever_the_slice_range():
    images = torch.rand(2, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    ranged = inferer(slice_selector=SliceSelector(slice_range=[5, 9]))
    torch.testing.assert_close(ranged(images, tiny_network()), inferer()(images, tiny_network()))


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 1, 2, 16, 16, 3)])
def test_inputs_of_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, c, H, W\) or \(B, c, W, H, D\)"):
        inferer()(torch.rand(shape), tiny_network())


def test_maps_are_float32_whatever_the_input():
    images = torch.rand(1, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    assert inferer()(images.half(), tiny_network()).dtype == torch.float32
