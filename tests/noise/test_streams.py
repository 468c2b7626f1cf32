from __future__ import annotations

import pytest
import torch
from scipy import stats

from scripts.noise import SliceGenerator, uniform

M64 = 2**64 - 1


class SplitMix64:
    """The published generator, on Python's own integers."""

    def __init__(self, state: int) -> None:
        self.state = state & M64

    @staticmethod
    def mix(z: int) -> int:
        z &= M64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
        return z ^ (z >> 31)

    def __next__(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & M64
        return self.mix(self.state)


def expected(seed: int, index: int, step: int, count: int) -> list[float]:
    """The first numbers of one slice's stream, from the description of its key alone."""
    key = next(SplitMix64(seed % 2**63))
    key = SplitMix64.mix(key + index)
    key = SplitMix64.mix(key + step * 0x632BE59BD9B4E019 % 2**63)
    # The stream's first word is the mixed key itself, so the generator starts one increment before it.
    words = SplitMix64(key - 0x9E3779B97F4A7C15)
    numbers: list[float] = []
    while len(numbers) < count:
        word = next(words)
        numbers += [(word >> 40) / 2**24, (word >> 8 & 0xFFFFFF) / 2**24]
    return numbers[:count]


def bits(numbers: torch.Tensor) -> torch.Tensor:
    """The 24 random bits of each number, as -1 and 1, along a new last axis."""
    words = (numbers.double() * 2**24).long()
    return ((words[..., None] >> torch.arange(24)) & 1).float() * 2 - 1


def test_reference_is_splitmix64():
    # Published outputs of SplitMix64 for the seed 1234567.
    generator = SplitMix64(1234567)
    assert [next(generator) for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("seed", [0, 1, 42, 2**63 - 1, 2**63 + 11, 2**64 - 1, 2**200 + 7, -1, -(2**70) + 3])
@pytest.mark.parametrize(("index", "step"), [(0, 0), (7, -1), (154, 200), (2**40, 10**6), (3, -1000)])
def test_numbers_equal_python_reference(seed, index, step):
    numbers = SliceGenerator(seed, [5, index], step).rand((2, 7))[1]
    assert numbers.tolist() == expected(seed, index, step, 7)


def test_number_late_in_a_long_stream_equals_reference():
    numbers = SliceGenerator(3, [9], 17).rand((1, 128, 32, 32)).flatten()
    assert numbers[-3:].tolist() == expected(3, 9, 17, 128 * 32 * 32)[-3:]


def test_batch_split_and_order_do_not_matter():
    indices, shape = [4, 0, 11, 2], (3, 5, 5)
    batch = SliceGenerator(6, indices, 3).rand((4, *shape))
    for row, index in enumerate(indices):
        assert torch.equal(SliceGenerator(6, [index], 3).rand((1, *shape))[0], batch[row])
    order = [2, 0, 3, 1]
    assert torch.equal(SliceGenerator(6, [indices[i] for i in order], 3).rand((4, *shape)), batch[order])
    halves = [SliceGenerator(6, indices[part], 3).rand((2, *shape)) for part in (slice(0, 2), slice(2, 4))]
    assert torch.equal(torch.cat(halves), batch)
    # Calling again gives the same numbers: there is no state.
    generator = SliceGenerator(6, torch.tensor(indices), 3)
    assert torch.equal(generator.rand((4, *shape)), generator.rand((4, *shape)))


@pytest.mark.parametrize("numel", [1, 2, 3, 75])
def test_numbers_depend_on_position_alone(numel):
    """Neither the shape nor an odd number of elements changes what an element gets."""
    long = SliceGenerator(1, [3, 4]).rand((2, 80))
    assert torch.equal(SliceGenerator(1, [3, 4]).rand((2, numel)), long[:, :numel])
    assert torch.equal(SliceGenerator(1, [3, 4]).rand((2, 4, 5, 4)), long.reshape(2, 4, 5, 4))


def test_seed_slice_and_step_each_change_every_stream():
    streams = {
        (seed, index, step): tuple(SliceGenerator(seed, [index], step).rand((1, 4))[0].tolist())
        for seed in (-2, -1, 0, 1, 2, 2**62)
        for index in range(8)
        for step in range(-2, 9)
    }
    assert len(set(streams.values())) == len(streams)


def test_at_keeps_seed_and_slices():
    generator = SliceGenerator(8, [1, 2], 5)
    assert torch.equal(generator.at(9).rand((2, 6)), SliceGenerator(8, [1, 2], 9).rand((2, 6)))
    assert torch.equal(generator.rand((2, 6)), SliceGenerator(8, [1, 2], 5).rand((2, 6)))


@pytest.mark.parametrize("seed", [0, 1, -1])
def test_uniform_distribution(seed):
    slices, steps = 10, range(-1, 9)
    numbers = torch.cat([SliceGenerator(seed, range(slices), step).rand((slices, 1001)) for step in steps], dim=1)
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    flat = numbers.double().flatten()
    n = flat.numel()
    assert stats.kstest(flat.numpy(), "uniform").pvalue > 1e-3
    assert flat.mean().item() == pytest.approx(0.5, abs=5 * (1 / 12 / n) ** 0.5)
    assert flat.var().item() == pytest.approx(1 / 12, abs=5 * (1 / 180 / n) ** 0.5)
    # Each of the 24 bits is fair, the lowest too.
    assert bits(flat).mean(dim=0).abs().max() < 5 / n**0.5


@pytest.mark.parametrize("what", ["slices", "steps", "seeds", "neighbours", "next but one"])
def test_bits_are_independent(what):
    """Correlation of each bit of one number with each bit of the other stays within five standard deviations."""
    n = 20_000
    first = SliceGenerator(5, [30], 12).rand((1, n))
    second = {
        "slices": lambda: SliceGenerator(5, [31], 12).rand((1, n)),
        "steps": lambda: SliceGenerator(5, [30], 13).rand((1, n)),
        "seeds": lambda: SliceGenerator(6, [30], 12).rand((1, n)),
        "neighbours": lambda: first.roll(1),
        "next but one": lambda: first.roll(2),
    }[what]()
    correlation = bits(first[0]).T @ bits(second[0]) / n
    assert correlation.abs().max() < 5 / n**0.5


def test_streams_of_many_slices_and_steps_are_independent_at_one_position():
    """The first number over a grid of slices and steps, where counters without mixing would show a lattice."""
    grid = torch.stack([SliceGenerator(0, range(150), step).rand((150, 1))[:, 0] for step in range(200)])
    assert stats.kstest(grid.flatten().numpy(), "uniform").pvalue > 1e-3
    centred = grid.double() - 0.5
    for a, b in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert abs((a * b).mean().item() * 12) < 5 / a.numel() ** 0.5


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\) asks for 3 slices, the generator has 2"):
        SliceGenerator(0, [1, 2]).rand((3, 4))
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        SliceGenerator(0, [[1, 2]])


def test_uniform_takes_every_source():
    generator = SliceGenerator(2, [0, 1], 4)
    assert torch.equal(uniform((2, 3), generator), generator.rand((2, 3)))
    assert torch.equal(uniform((2, 3), generator, "cpu"), generator.rand((2, 3)))

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    assert torch.equal(uniform((2, 3), seeded()), torch.rand(2, 3, generator=seeded()))
    state = torch.get_rng_state()
    numbers = uniform(torch.Size((2, 3)))
    torch.set_rng_state(state)
    assert torch.equal(numbers, torch.rand(2, 3))
    # float32 also where another default is set
    torch.set_default_dtype(torch.float64)
    try:
        assert uniform((2, 3)).dtype == uniform((2, 3), generator).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
