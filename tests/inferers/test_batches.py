"""Batch sizes: parts in order, halved when the memory runs out, found from free memory."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers import random_slices, tiny_network
from masked_bernoulli_recording import L, inferer, run_slices

from scripts.inferers.batches import CPU_SIZE, Batches, is_out_of_memory, size_for


def parts(batches: Batches, count: int, limit: int = 10**9, error: str = "out of memory") -> list[tuple[int, int]]:
    """The parts that were done when more than ``limit`` items at once do not fit."""

    def function(part: slice) -> tuple[int, int]:
        if part.stop - part.start > limit:
            raise torch.OutOfMemoryError(error)
        return part.start, part.stop

    return list(batches.run(count, function))


def test_parts_follow_each_other():
    assert parts(Batches(4), 10) == [(0, 4), (4, 8), (8, 10)]
    assert parts(Batches(4), 0) == []


def test_halved_and_nothing_lost(caplog):
    batches = Batches(8)
    with caplog.at_level(logging.WARNING):
        assert parts(batches, 9, limit=3) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    assert batches.size == 2
    assert [r.getMessage() for r in caplog.records] == [
        "8 slices at once do not fit the memory, going on with 4",
        "4 slices at once do not fit the memory, going on with 2",
    ]
    assert parts(batches, 4, limit=3) == [(0, 2), (2, 4)], "the smaller size is kept"


def test_one_item_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="what was said"):
        parts(Batches(4), 4, limit=0, error="what was said")


def test_other_errors_pass():
    def function(part: slice) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Batches(4).run(4, function))


def test_what_running_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: invalid argument"))


def test_size_from_memory():
    assert size_for(needed=100, free=1000) == 8
    assert size_for(needed=1000, free=100) == 1
    assert size_for(needed=1, free=10**9) == 256
    assert size_for(needed=0, free=10) == 8


def test_size_on_the_cpu_is_fixed():
    def trial() -> None:
        raise AssertionError("nothing is tried out on a CPU")

    batches = Batches(None)
    batches.fit(trial, random_slices(0))
    assert batches.size is None, "nothing to choose it for"
    batches.fit(trial, random_slices(1))
    assert batches.size == CPU_SIZE
    given = Batches(3)
    given.fit(trial, random_slices(1))
    assert given.size == 3


def test_inference_goes_on_with_smaller_batches(monkeypatch):
    """Slices keep their noise, so nothing but rounding can change."""
    network, slices = tiny_network(), random_slices(5)
    expected = run_slices(inferer(sw_batch_size=5), slices, torch.arange(5), network)
    sizes, forward = [], network.denoiser.forward

    def scarce(x, timesteps):
        sizes.append(len(x))
        # In the middle of the loop, when something has been restored already.
        if len(x) > 2 and len(sizes) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, timesteps=timesteps)

    monkeypatch.setattr(network.denoiser, "forward", scarce)
    output = run_slices(inferer(sw_batch_size=5), slices, torch.arange(5), network)
    assert sizes == [5] * 4 + [3] + [2] * 2 * L + [1] * L
    assert torch.equal(output.mask, expected.mask)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction, atol=1e-5, rtol=1e-5)
