"""Random numbers of a training batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from scripts.noise import Draws

WHOLE = 6


class Shard:
    """Every second row of a batch of six, from the second on."""

    def take(self, draw):
        return draw(WHOLE)[1::2]


def after(seed: int, draw):
    torch.manual_seed(seed)
    return draw()


DRAWN = {
    "rand": (lambda d, n: d.rand((n, 2, 3)), lambda: torch.rand(WHOLE, 2, 3)),
    "randn": (lambda d, n: d.randn((n, 2, 3)), lambda: torch.randn(WHOLE, 2, 3)),
    "integers": (lambda d, n: d.integers(3, 90, n), lambda: torch.randint(3, 90, (WHOLE,))),
    "times": (lambda d, n: d.times(90, n), lambda: torch.randint(0, 90, (WHOLE,))),
}


@pytest.mark.parametrize("name", DRAWN)
def test_without_a_shard_the_numbers_are_torchs(name):
    draw, reference = DRAWN[name]
    numbers = after(4, lambda: draw(Draws(), WHOLE))
    assert torch.equal(numbers, after(4, reference))
    assert not torch.equal(numbers, after(5, lambda: draw(Draws(), WHOLE)))


@pytest.mark.parametrize("name", DRAWN)
def test_a_shard_gets_its_rows_of_the_whole_batch(name):
    """And torch's state moves on as it does in one process."""
    draw, reference = DRAWN[name]
    own, following = after(4, lambda: (draw(Draws(Shard()), 3), torch.rand(1)))
    whole, expected = after(4, lambda: (reference(), torch.rand(1)))
    assert torch.equal(own, whole[1::2])
    assert torch.equal(following, expected)


def test_shared_integers_are_the_same_in_every_process():
    alone = after(2, lambda: Draws().shared_integers(5, 9, 200))
    assert after(2, lambda: Draws(Shard()).shared_integers(5, 9, 200)) == alone
    assert set(alone) == {5, 6, 7, 8} and all(type(number) is int for number in alone)


def test_random_times_are_uniform():
    counts = Counter(after(0, lambda: Draws().times(4, 40_000)).tolist())
    assert sorted(counts) == [0, 1, 2, 3]
    # Five standard deviations of a binomial count.
    assert all(abs(count - 10_000) < 5 * (40_000 * 3 / 16) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(("end", "count"), [(1000, 4), (1000, 7), (10, 10), (3, 8), (1000, 1)])
def test_stratified_times_are_the_middles_of_equal_spans(end, count):
    times = Draws(stratified=True).times(end, count)
    assert times.dtype == torch.int64
    # Row i: the whole part of (2 i + 1) end / (2 n).
    assert times.tolist() == [(2 * i + 1) * end // (2 * count) for i in range(count)]


def test_stratified_times_need_no_randomness_and_are_spread_over_all_processes():
    state = torch.get_rng_state()
    own = Draws(Shard(), stratified=True).times(1000, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert own.tolist() == [(2 * i + 1) * 1000 // (2 * WHOLE) for i in (1, 3, 5)]
