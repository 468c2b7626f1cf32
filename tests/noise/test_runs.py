import torch

from scripts.noise import SliceGenerator
from scripts.noise.runs import run_streams


def test_the_first_run_has_the_streams_themselves():
    streams = SliceGenerator(5, [2, 7], 3)
    assert torch.equal(run_streams(streams, 0).rand((2, 9)), streams.rand((2, 9)))


def test_numbers_depend_on_seed_unit_run_and_step_alone():
    batch = run_streams(SliceGenerator(5, [2, 7]), 4).at(3).rand((2, 9))
    for row, index in enumerate((2, 7)):
        assert torch.equal(run_streams(SliceGenerator(5, [index], 11), 4).at(3).rand((1, 9))[0], batch[row])


def test_every_run_is_another():
    streams = {
        (seed, run): tuple(run_streams(SliceGenerator(seed, [0]), run).rand((1, 4))[0].tolist())
        for seed in (-1, 0, 1, 2, 2**62)
        for run in range(40)
    }
    assert len(set(streams.values())) == len(streams)


def test_runs_are_independent():
    n = 20_000
    numbers = torch.stack([run_streams(SliceGenerator(0, [3]), run).rand((1, n))[0] for run in range(6)]).double()
    correlations = torch.corrcoef(numbers) - torch.eye(6)
    assert correlations.abs().max() < 5 / n**0.5
