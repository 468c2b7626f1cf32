"""Stages of a training, and what a training says of itself."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

from scripts.methods.task import Task
from scripts.training.stage import Stage, choose_stage, training_settings


class Doubling(Task):
    """Teaches to double."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def example(self, clean, labels, draws):
        return clean, self.factor * clean, {}


def stage(**changes) -> Stage:
    return Stage(**{"task": Doubling(2.5), "loss": nn.SmoothL1Loss(beta=0.25), "metrics": {}, **changes})


@pytest.mark.parametrize(
    ("lower_is_better", "current", "best", "better"),
    [
        (True, 1.0, 2.0, True),
        (True, 2.0, 1.0, False),
        (True, 1.0, 1.0, False),
        (False, 1.0, 2.0, False),
        (False, 2.0, 1.0, True),
        (False, 1.0, 1.0, False),
        (True, float("nan"), 1.0, False),
        (False, float("nan"), 1.0, False),
    ],
)
def test_better(lower_is_better, current, best, better):
    assert stage(lower_is_better=lower_is_better).better(current, best) is better


def test_errors_are_better_when_low_by_default():
    assert stage().better(0.1, 0.2)


def test_the_stage_of_a_part():
    first, second = stage(), stage()
    stages = {"encoder": first, "decoder": second}
    assert choose_stage(stages, "encoder") is first
    assert choose_stage(stages, "decoder") is second


def test_an_unknown_part():
    with pytest.raises(ValueError, match=r"part: nothing trains 'decodr' here, wanted one of encoder, decoder"):
        choose_stage({"encoder": stage(), "decoder": stage()}, "decodr")
    with pytest.raises(ValueError, match=r"nothing trains 'unet' here, wanted one of none"):
        choose_stage({}, "unet")


def test_settings_tell_task_and_loss():
    said = training_settings(stage(), batch_size=4, optimizer=torch.optim.Adam)
    assert said["task"] == {"name": "Doubling", "factor": 2.5}
    assert said["loss"]["name"] == "SmoothL1Loss" and said["loss"]["beta"] == 0.25
    assert said["batch_size"] == 4 and said["optimizer"] == "Adam"
    assert json.loads(json.dumps(said)) == said
    assert training_settings(stage(task=Doubling(3)))["task"] != said["task"]
    assert training_settings(stage(loss=nn.L1Loss()))["loss"] != said["loss"]


def test_settings_without_a_stage():
    assert training_settings(batch_size=4) == {"batch_size": 4}


def test_files_are_told_by_what_they_hold(tmp_path):
    contents = {"a": b"weights", "b": b"weights", "c": b"others"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    said = training_settings(files={**{name: str(tmp_path / name) for name in contents}, "initial_weights": None})
    assert said["a"] == said["b"] != said["c"] and said["initial_weights"] is None
    assert said["a"] == hashlib.sha256(b"weights").hexdigest()[:16]


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "there").write_bytes(b"weights")
    files = {"initial_weights": str(tmp_path / "there"), "autoencoder_weights": str(tmp_path / "none.pt")}
    with pytest.raises(FileNotFoundError, match=r"autoencoder_weights: no file '.*none\.pt'"):
        training_settings(stage(), files)
