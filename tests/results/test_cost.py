"""What a run costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny_network
from torch import nn

from scripts.results.cost import describe_cost, peak_memory

CPU = torch.device("cpu")


def test_parameters_are_counted_once():
    shared = nn.Linear(3, 4)
    network = nn.Sequential(shared, nn.Linear(4, 3, bias=False), shared, nn.BatchNorm1d(4))
    network[1].requires_grad_(False)
    assert describe_cost(network, CPU, 1, 1, 1)["parameters"] == 3 * 4 + 4 + 4 * 3 + 2 * 4


def test_both_networks_are_counted():
    network = tiny_network()
    counts = [
        describe_cost(part, CPU, 1, 1, 1)["parameters"] for part in (network, network.autoencoder, network.denoiser)
    ]
    assert counts[0] == counts[1] + counts[2]
    assert min(counts) > 1000


def test_is_json():
    cost = describe_cost(nn.Linear(1, 1), CPU, 1.23456, 7, 20)
    assert json.loads(json.dumps(cost)) == cost
    assert (cost["seconds"], cost["slices"], cost["passes"], cost["device"]) == (1.235, 7, 20, "cpu")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to compare with")
def test_memory_is_the_processes_largest_resident_size():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    assert peak_memory(CPU) == pytest.approx(int(line.split()[1]) * 1024, rel=0.01)


def test_memory_counts_bytes_on_every_system(monkeypatch):
    before = peak_memory(CPU)
    # What Linux gives in kibibytes macOS gives in bytes.
    monkeypatch.setattr(sys, "platform", "darwin" if sys.platform != "darwin" else "linux")
    other = peak_memory(CPU)
    assert max(before, other) / min(before, other) == pytest.approx(1024, rel=0.01)


def test_memory_of_a_gpu_is_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 12345)
    cost = describe_cost(nn.Linear(1, 1), torch.device("cuda", 1), 1, 1, 1)
    assert cost["peak_memory_bytes"] == 12345
    assert cost["device"] == "cuda:1"
    assert asked == [torch.device("cuda", 1)]
