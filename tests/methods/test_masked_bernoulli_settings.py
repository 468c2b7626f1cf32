"""Masked Bernoulli denoising: arguments, and outputs joined and split."""

from __future__ import annotations

import math
import re

import pytest
import torch
from helpers import (
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    random_slices,
    tiny_network,
)
from masked_bernoulli_recording import (
    inferer,
)

from scripts.data.selection import SliceSelector
from scripts.inferers import MaskedBernoulliInferer
from scripts.inferers.masked_bernoulli import MaskedDenoisingOutput
from scripts.schedulers import BernoulliScheduler

# Arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability_threshold": -0.1}, "probability_threshold must lie in [0, 1], got -0.1"),
        ({"probability_threshold": 1.5}, "probability_threshold must lie in [0, 1], got 1.5"),
        ({"probability_threshold": math.nan}, "probability_threshold must lie in [0, 1], got nan"),
        ({"noise_level": 0}, "noise_level must lie in [1, 20], got 0"),
        ({"noise_level": 21}, "noise_level must lie in [1, 20], got 21"),
        ({"num_inference_steps": 9}, "num_inference_steps must lie in [1, noise_level=8], got 9"),
        ({"num_inference_steps": 0}, "num_inference_steps must lie in [1, noise_level=8], got 0"),
        ({"sw_batch_size": 0}, "sw_batch_size must be at least 1, got 0"),
        ({"sw_batch_size": -3}, "sw_batch_size must be at least 1, got -3"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        inferer(**changes)


def test_whole_numbers_may_be_floats():
    slices, network = random_slices(3), tiny_network()
    whole = inferer(sw_batch_size=2, num_inference_steps=4).run_slices(slices, torch.arange(3), network)
    floats = inferer(noise_level=8.0, sw_batch_size=2.0, num_inference_steps=4.0)
    assert torch.equal(floats.run_slices(slices, torch.arange(3), network).mask, whole.mask)


def test_defaults_are_the_papers():
    run = MaskedBernoulliInferer(BernoulliScheduler())
    assert (run.noise_level, run.probability_threshold) == (200, 0.5)
    assert run.scheduler.timesteps.tolist() == list(range(199, -1, -1))


def test_progress_counts_every_step(capsys):
    inferer(progress=True, sw_batch_size=2, num_inference_steps=4).run_slices(
        random_slices(3), torch.arange(3), tiny_network()
    )
    assert "/12 [" in capsys.readouterr().err
    inferer().run_slices(random_slices(1), torch.arange(1), tiny_network())
    assert not capsys.readouterr().err


def test_outputs_are_joined_in_order():
    parts = [
        MaskedDenoisingOutput(
            reconstruction=torch.full((n, 2, 4, 4), n),
            anomaly_map=torch.full((n, 1, 4, 4), 10 * n),
            mask_share=torch.full((n,), 100 * n),
            mask_density=torch.full((n, 1, 4, 4), 1000 * n),
        )
        for n in (2, 1)
    ]
    joined = MaskedDenoisingOutput.cat(iter(parts))
    assert joined.reconstruction[:, 0, 0, 0].tolist() == [2, 2, 1]
    assert joined.anomaly_map[:, 0, 0, 0].tolist() == [20, 20, 10]
    assert joined.mask_share.tolist() == [200, 200, 100]
    assert joined.mask_density[:, 0, 0, 0].tolist() == [2000, 2000, 1000]
    assert joined.mask is None and joined.mask_growth is None


@pytest.mark.parametrize("return_mask", [False, True])
def test_split_undoes_joining(return_mask):
    output = inferer(return_mask=return_mask).run_slices(random_slices(4), torch.arange(4), tiny_network())
    parts = output.split([1, 0, 3])
    assert [len(part.mask_share) for part in parts] == [1, 0, 3]
    assert torch.equal(parts[0].anomaly_map, output.anomaly_map[:1])
    assert torch.equal(parts[2].reconstruction, output.reconstruction[1:])
    joined = MaskedDenoisingOutput.cat(parts)
    assert torch.equal(parts[2].mask_density, output.mask_density[1:])
    for name in ("reconstruction", "anomaly_map", "mask_share", "mask_density"):
        assert torch.equal(getattr(joined, name), getattr(output, name))
    for name in ("mask", "mask_growth"):
        if return_mask:
            assert torch.equal(getattr(joined, name), getattr(output, name))
        else:
            assert [getattr(part, name) for part in parts] == [None] * 3


def test_a_denoiser_that_gives_nan_is_an_error_not_a_healthy_slice():
    network = tiny_network()
    with torch.no_grad():
        network.denoiser.conv_in.conv.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        inferer()(torch.rand(2, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE), network)


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
