"""Normal numbers of a slice's stream."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from scripts.noise import SliceGenerator, normal


@pytest.mark.parametrize("seed", [0, 1, -1])
def test_distribution(seed):
    numbers = SliceGenerator(seed, range(10), 3).randn((10, 20_001))
    assert numbers.dtype == torch.float32 and numbers.isfinite().all()
    flat = numbers.double().flatten()
    n = flat.numel()
    assert stats.kstest(flat.numpy(), stats.norm.cdf).pvalue > 1e-3
    # Moments within five of their standard deviations.
    assert abs(flat.mean().item()) < 5 / n**0.5
    assert flat.var().item() == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert (flat**4).mean().item() == pytest.approx(3, abs=5 * (96 / n) ** 0.5)


def test_box_and_muller_of_the_uniform_numbers():
    u = SliceGenerator(3, [5, 8], 2).rand((2, 12)).tolist()
    found = SliceGenerator(3, [5, 8], 2).randn((2, 2, 3))
    for row in range(2):
        expected = [math.sqrt(-2 * math.log(1 - u[row][i])) * math.cos(2 * math.pi * u[row][6 + i]) for i in range(6)]
        assert found[row].flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_batch_equals_its_singles():
    indices, shape = [4, 0, 11], (2, 5, 7)
    batch = SliceGenerator(6, indices, 3).randn((3, *shape))
    assert batch.shape == (3, *shape)
    for row, index in enumerate(indices):
        assert torch.equal(SliceGenerator(6, [index], 3).randn((1, *shape))[0], batch[row])
    again = SliceGenerator(6, torch.tensor(indices), 0).at(3)
    assert torch.equal(again.randn((3, *shape)), batch) and torch.equal(again.randn((3, *shape)), batch)


@pytest.mark.parametrize("what", ["slices", "steps", "seeds", "neighbours", "next but one", "halves"])
def test_streams_are_independent(what):
    """Of the numbers, whose sign a mixed-up angle would keep, and of their squares, which a radius would."""
    n = 40_000
    first = SliceGenerator(5, [30], 12).randn((1, n))[0].double()
    second = {
        "slices": lambda: SliceGenerator(5, [31], 12).randn((1, n))[0].double(),
        "steps": lambda: SliceGenerator(5, [30], 13).randn((1, n))[0].double(),
        "seeds": lambda: SliceGenerator(6, [30], 12).randn((1, n))[0].double(),
        "neighbours": lambda: first.roll(1),
        "next but one": lambda: first.roll(2),
        "halves": lambda: first.roll(n // 2),
    }[what]()
    assert abs((first * second).mean().item()) < 5 / n**0.5
    # The square of a normal number has variance 2.
    assert abs(((first**2 - 1) * (second**2 - 1)).mean().item()) < 5 * 2 / n**0.5


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"asks for 3 slices, the generator has 2"):
        SliceGenerator(0, [1, 2]).randn((3, 4))
    with pytest.raises(ValueError, match=r"asks for 1 slices, the generator has 2"):
        normal((1, 4), SliceGenerator(0, [1, 2]))


def test_normal_takes_every_source():
    generator = SliceGenerator(2, [0, 1], 4)
    assert torch.equal(normal((2, 3), generator), generator.randn((2, 3)))
    assert torch.equal(normal((2, 3), generator, "cpu"), generator.randn((2, 3)))

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    assert torch.equal(normal((2, 3), seeded()), torch.randn(2, 3, generator=seeded()))
    torch.manual_seed(7)
    numbers = normal(torch.Size((2, 3)))
    torch.manual_seed(7)
    assert torch.equal(numbers, torch.randn(2, 3))
