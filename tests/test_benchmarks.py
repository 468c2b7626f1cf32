"""The benchmarks run, tiny, and say of each other what must be true on any machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_runner import BUNDLE, ROOT, environment
from monai.networks.nets import DiffusionModelUNet
from torch import nn


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """What ``gpu.py --small`` writes: both benchmarks in a few steps, with the shipped weights on the sample."""
    path: Path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--small", "--output", str(path)]
    env = {**environment(), "PYTHONPATH": str(BUNDLE), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, check=True, env=env, cwd=path.parent, timeout=900)
    return json.loads(path.read_text())


def test_every_part_ran(report):
    assert list(report["parts"]) == ["inference", "training"]
    assert not any("failed" in part for part in report["parts"].values())
    assert report["machine"]["bfloat16_gflops"] > 0


def test_float32_is_the_plain_loop_bit_for_bit(report):
    rows = [row for row in report["parts"]["inference"]["rows"] if row["precision"] == "float32"]
    assert [row["batch"] for row in rows] == [1, 2]
    assert all(row["code_bits_differing"] == 0 and row["largest_difference"] == 0 for row in rows)


def test_bfloat16_is_near(report):
    rows = [row for row in report["parts"]["inference"]["rows"] if row["precision"] == "bfloat16"]
    assert rows
    assert all(row["code_bits_differing"] < 0.05 and row["map_correlation"] > 0.95 for row in rows)


def test_training_figures_fit_together(report):
    rows = report["parts"]["training"]["rows"]
    assert {(row["stage"], row["memory_format"]) for row in rows} == {
        (stage, form) for stage in ("autoencoder", "denoiser") for form in ("contiguous", "channels_last")
    }
    for row in rows:
        assert row["images_a_second"] == pytest.approx(2 * row["iterations_a_second"])
        assert 0 <= row["loader_share"] < 1
        peak = report["parts"]["training"]["machine"]["bfloat16_gflops"]
        assert row["share_of_peak"] == pytest.approx(
            row["iterations_a_second"] * row["gflop_an_iteration"] / peak, rel=1e-6
        )


def test_goals_are_compared_with_what_was_measured(report):
    fastest = max(r["iterations_a_second"] for r in report["parts"]["training"]["rows"] if r["stage"] == "denoiser")
    assert report["reached"]["minutes_for_200000_iterations"] == pytest.approx(200_000 / fastest / 60)
    assert report["reached"]["volume_seconds"] is None, "no volume of 49 slices was measured"


class OneBatchTrainer:
    """As much of a trainer as a comparison of gradients needs."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.optimizer = network, torch.optim.SGD(network.parameters(), lr=0.1)
        self.data_loader = [torch.ones(5, 3)]

    @staticmethod
    def _iteration(trainer, batch):
        trainer.optimizer.zero_grad()
        trainer.network(batch).square().mean().backward()
        trainer.optimizer.step()


@pytest.mark.parametrize("lossy", [False, True])
def test_gradients_lost_by_a_compiler_are_found(lossy: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from training_speed import gradient_agreement

    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    trainer = OneBatchTrainer(network)
    assert gradient_agreement(trainer, network) == {}

    def compiled(x: torch.Tensor) -> torch.Tensor:
        """Right forwards, and where ``lossy`` wrong backwards."""
        hidden = network[0](x)
        return network[1](hidden.detach() if lossy else hidden)

    network._compiled_call_impl = compiled
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = gradient_agreement(trainer, network)
    assert found["parameters_compared"] == 4
    assert found["parameters_without_gradient"] == (2 if lossy else 0)
    assert (found["gradient_cosine"] == pytest.approx(1, abs=1e-6)) != lossy
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network._compiled_call_impl is compiled


def test_every_parameter_of_the_unet_is_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from training_speed import draw_zero_weights

    sizes = {"channels": (8, 8), "attention_levels": (False, True), "num_head_channels": 8, "norm_num_groups": 4}
    network = DiffusionModelUNet(2, 4, 4, num_res_blocks=1, **sizes)
    draw_zero_weights(network)
    network(torch.ones(1, 4, 8, 8), timesteps=torch.ones(1)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A key's bias shifts all scores of a query alike, which softmax does not see.
    assert [name for name in without if not name.endswith("to_k.bias")] == []


@pytest.mark.parametrize("fault", [{"parameters_without_gradient": 3}, {"gradient_cosine": 0.5}])
def test_a_network_that_does_not_train_reaches_no_goal(fault: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu import judge

    right = {"stage": "denoiser", "iterations_a_second": 100.0, "gradient_cosine": 1.0}
    fast = {"stage": "denoiser", "iterations_a_second": 1000.0, **fault}
    assert judge({"a": {"rows": [right, fast]}})["minutes_for_200000_iterations"] == pytest.approx(2000 / 60)
