"""Handlers of the trainings: seeds, checkpoints, curves, pictures."""

from __future__ import annotations

import csv
from copy import deepcopy

import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader, Dataset, RandomSampler

from scripts.handlers import EpochSeed, HistoryHandler, PictureHandler, TrainingCheckpoint
from scripts.handlers.training_checkpoint import _lay_out_like_parameters


class Numbers(Dataset):
    """The numbers 0 to 6, and the epoch they were asked in."""

    epoch = 0

    def __len__(self) -> int:
        return 7

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, self.epoch


def record(start: int, stop: int, seed: int = 3) -> list[tuple]:
    """What epochs ``start + 1`` to ``stop`` see: batches and a random number each."""
    data = Numbers()
    loader = DataLoader(data, batch_size=2, sampler=RandomSampler(data, num_samples=10))
    seen: list[tuple] = []
    engine = Engine(
        lambda e, batch: seen.append((e.state.epoch, batch[0].tolist(), batch[1].tolist(), torch.rand(1).item()))
    )
    EpochSeed(seed, data_loader=loader).attach(engine)

    @engine.on(Events.STARTED)
    def resume(e: Engine) -> None:
        e.state.epoch, e.state.iteration = start, start * 3

    engine.run(loader, max_epochs=stop, epoch_length=3)
    return seen


def test_epochs_are_the_same_whatever_came_before():
    whole = record(0, 4)
    assert record(2, 4) == [entry for entry in whole if entry[0] > 2]
    orders = [[entry[1] for entry in whole if entry[0] == epoch] for epoch in range(1, 5)]
    assert len({str(order) for order in orders}) == 4
    assert all(epochs == [entry[0]] * 2 for entry in whole for epochs in [entry[2]])
    assert record(0, 1, seed=4) != record(0, 1)


def test_fixed_seed_repeats_in_every_epoch():
    drawn = []
    engine = Engine(lambda e, b: drawn.append(torch.rand(1).item()))
    EpochSeed(1, fixed=True).attach(engine)
    engine.run([0, 1], max_epochs=2)
    assert drawn[:2] == drawn[2:] and drawn[0] != drawn[1]


def checkpointed(folder, scores: list[float], epochs: int, resume: bool = True) -> tuple[torch.nn.Linear, Engine]:
    """An engine whose weight grows by one an epoch; validation gives ``scores``."""
    network, validation = torch.nn.Linear(1, 1, bias=False), Engine(lambda e, b: None)
    torch.nn.init.zeros_(network.weight)
    validation.state.best_metric, validation.state.best_metric_epoch = -1, -1

    def update(engine: Engine, batch: int) -> dict:
        with torch.no_grad():
            network.weight += 1
        return {"loss": float(engine.state.epoch)}

    engine = Engine(update)

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(e: Engine) -> None:
        score = scores[e.state.epoch - 1]
        validation.state.epoch, validation.state.metrics = e.state.epoch, {"score": score}
        if validation.state.best_metric_epoch == -1 or score > validation.state.best_metric:
            validation.state.best_metric, validation.state.best_metric_epoch = score, e.state.epoch

    TrainingCheckpoint(str(folder), {"network": network}, network, validation, resume).attach(engine)
    HistoryHandler(str(folder), validation).attach(engine)
    engine.run([0], max_epochs=epochs)
    return network, engine


def test_best_and_last(tmp_path):
    checkpointed(tmp_path, [0.1, 0.5, 0.3], 3)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["weight"].item() == 2
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert last["objects"]["network"]["weight"].item() == 3
    assert (last["epoch"], last["best_metric"], last["best_metric_epoch"]) == (3, 0.5, 2)


def test_resuming_remembers_the_best_and_the_history(tmp_path):
    checkpointed(tmp_path, [0.1, 0.5], 2)
    # The third epoch is worse than the second: best.pt must stay, which a forgotten best would overwrite.
    network, engine = checkpointed(tmp_path, [0.1, 0.5, 0.3], 3)
    assert network.weight.item() == 3 and engine.state.iteration == 3
    assert torch.load(tmp_path / "best.pt", weights_only=True)["weight"].item() == 2
    rows = list(csv.DictReader((tmp_path / "history.csv").open()))
    assert [(int(r["epoch"]), float(r["loss"]), float(r["val_score"])) for r in rows] == [
        (1, 1.0, 0.1),
        (2, 2.0, 0.5),
        (3, 3.0, 0.3),
    ]


def test_resume_off_starts_anew(tmp_path):
    checkpointed(tmp_path, [0.1, 0.5], 2)
    network, _ = checkpointed(tmp_path, [0.1], 1, resume=False)
    assert network.weight.item() == 1


def test_checkpoint_of_other_objects_is_refused(tmp_path):
    checkpointed(tmp_path, [0.1], 1)
    network = torch.nn.Linear(1, 1)
    handler = TrainingCheckpoint(
        str(tmp_path), {"network": network, "more": network}, network, Engine(lambda e, b: None)
    )
    engine = Engine(lambda e, b: None)
    handler.attach(engine)
    with pytest.raises(ValueError, match=r"holds \['network'\], wanted \['more', 'network'\]"):
        engine.run([0], max_epochs=2)


def test_pictures_show_every_image_and_restore_the_mode(tmp_path):
    images = [{"image": torch.full((2, 8, 8), i / 10)} for i in range(9)]
    seen = {}

    def render(network: torch.nn.Module, batch: torch.Tensor) -> dict:
        seen["batch"], seen["training"] = batch, network.training
        return {"image": batch, "half": batch / 2}

    network = torch.nn.Linear(1, 1).train()
    engine = Engine(lambda e, b: None)
    PictureHandler(str(tmp_path), images, network, render, count=3, interval=2).attach(engine)
    engine.run([0], max_epochs=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_0002.png", "epoch_0004.png"]
    torch.testing.assert_close(seen["batch"][:, 0, 0, 0], torch.tensor([0.0, 0.4, 0.8]))
    assert not seen["training"] and network.training


@pytest.mark.parametrize("fused", [True, False])
def test_moments_follow_the_memory_format_of_the_weights(fused):
    """A run may go on in another memory format: the moments must still belong to their weights."""

    def one(memory_format):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(4, 5, 3).to(memory_format=memory_format)
        return network, torch.optim.Adam(network.parameters(), lr=0.1, fused=fused)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    images = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network, optimizer = one(torch.contiguous_format)
    step(network, optimizer)
    other, other_optimizer = one(torch.channels_last)
    other.load_state_dict(network.state_dict())
    other_optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    _lay_out_like_parameters(other_optimizer)
    for parameter in other.parameters():
        assert other_optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
    step(network, optimizer)
    step(other, other_optimizer)
    torch.testing.assert_close(other.weight.contiguous(), network.weight.contiguous(), atol=1e-4, rtol=0)
