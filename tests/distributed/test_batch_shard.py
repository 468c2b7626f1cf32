"""The shares of a batch together are the batch, random numbers included."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch.utils.data import TensorDataset

from scripts.data.slices import DrawSampler
from scripts.distributed import BatchShard, ProcessGroup, shard_loader
from scripts.methods.masked_bernoulli import FlipTask
from scripts.networks import BinarizingAutoencoder
from scripts.schedulers import BernoulliScheduler
from scripts.training import TaskPrepareBatch

SIZE = 3
"""Processes; nothing here is joined, each is asked in turn."""


def process(rank: int) -> SimpleNamespace:
    return SimpleNamespace(rank=rank, size=SIZE)


def data(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


def interleaved(parts: list[torch.Tensor]) -> torch.Tensor:
    """Rows 0, 1, 2, ... of which process i modulo their number holds row i."""
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank::SIZE] = part
    return whole


@pytest.mark.parametrize("count", [3, 6, 7, 8, 10])
def test_batches_of_all_processes_are_those_of_one(count):
    whole = list(torch.arange(count).split(6))
    shares = [[batch[0] for batch in shard_loader(data(count), process(r), batch_size=6)] for r in range(SIZE)]
    for number, batch in enumerate(whole):
        # The last batch may leave nothing to some.
        parts = [share[number] if number < len(share) else torch.empty(0, dtype=torch.int64) for share in shares]
        assert torch.equal(interleaved(parts), batch)


def test_drawn_batches_of_all_processes_are_those_of_one():
    def epoch(loader) -> list[torch.Tensor]:
        torch.manual_seed(4)
        return [batch[0] for batch in loader]

    numbers = data(5)

    def share(rank: int):
        sampler = DrawSampler(numbers, 12)
        return epoch(shard_loader(data(100), process(rank), batch_size=6, sampler=sampler, drop_last=True))

    whole = epoch(torch.utils.data.DataLoader(data(100), batch_size=6, sampler=DrawSampler(numbers, 12)))
    for number, batch in enumerate(whole):
        assert torch.equal(interleaved([share(rank)[number] for rank in range(SIZE)]), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 4}, "batch_size must be a multiple of the 3 processes, got 4"),
        ({"batch_size": 3, "shuffle": True}, "shuffle must be False"),
        ({"batch_size": 3, "sampler": [0, 1]}, r"2 slice\(s\) cannot be shared out among 3 processes"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        shard_loader(data(9), process(0), **arguments)


def test_numbers_are_the_rows_of_what_one_process_draws():
    torch.manual_seed(1)
    whole = [torch.rand(6, 2, 5), torch.rand(6, 2, 5)]
    parts = []
    for rank in range(SIZE):
        torch.manual_seed(1)
        shard = BatchShard(process(rank), 6)
        parts.append([shard.rand((2, 2, 5)), shard.rand((2, 2, 5))])
    assert all(torch.equal(interleaved([p[i] for p in parts]), whole[i]) for i in range(2))
    with pytest.raises(ValueError, match="asks for 3 rows, this process has 2"):
        BatchShard(process(0), 6).rand((3, 1))


def test_the_size_follows_the_engine():
    shard, sizes = BatchShard(process(0), 6, count=8), []
    engine = Engine(lambda engine, batch: sizes.append(shard.size))
    shard.attach(engine)
    engine.run([0, 1], max_epochs=1)
    assert sizes == [6, 2]


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("rows", [6, 4])
def test_noise_and_times_of_all_processes_are_those_of_one(rows, stratified):
    autoencoder = BinarizingAutoencoder(1, [4, 4], 1, 4, 4, 2)
    scheduler = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    images = torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def prepare(batch: torch.Tensor, generator: BatchShard | None) -> tuple:
        torch.manual_seed(2)
        task = FlipTask(autoencoder, scheduler)
        prepared = TaskPrepareBatch(task, stratified=stratified, generator=generator)
        noisy, target, _, kwargs = prepared({"image": batch}, "cpu")
        return noisy, target, kwargs["timesteps"]

    def share(rank: int) -> tuple:
        shard = BatchShard(process(rank), 6, count=rows)
        shard.begin(SimpleNamespace(state=SimpleNamespace(iteration=1)))
        return prepare(images[rank::SIZE], shard)

    parts = [share(rank) for rank in range(SIZE)]
    for number, wanted in enumerate(prepare(images, None)):
        assert torch.equal(interleaved([part[number] for part in parts]), wanted)


def test_a_process_that_torchrun_did_not_start_is_told_so():
    with pytest.raises(ValueError, match=r"backend 'gloo': no process group .*torchrun --standalone"):
        ProcessGroup("gloo")
