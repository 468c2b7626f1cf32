from __future__ import annotations

import pytest
import torch
from bundle_runner import CONFIGS, tiny_overlay

from scripts.export_model import export_model


@pytest.fixture
def configs(tmp_path):
    return [CONFIGS / "inference.json", tiny_overlay(tmp_path, "inference")]


def read(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_part_of_a_joined_model_and_the_other_stage(part: str, configs, tmp_path):
    first, second, joined = (tmp_path / f"{name}.pt" for name in ("first", "second", "joined"))
    export_model(first, configs, seed=1)
    export_model(second, configs, seed=2)
    other = {"autoencoder": "denoiser", "denoiser": "autoencoder"}[part]
    export_model(joined, configs, {part: str(first), other: str(second)})
    wanted = {name: value for name, value in read(first).items() if name.startswith(part)}
    wanted |= {name: value for name, value in read(second).items() if name.startswith(other)}
    found = read(joined)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(read(first)[name], read(second)[name]) for name in wanted)


def test_half_precision_unless_told(configs, tmp_path):
    export_model(tmp_path / "half.pt", configs)
    export_model(tmp_path / "full.pt", configs, half=False)
    half, full = read(tmp_path / "half.pt"), read(tmp_path / "full.pt")
    assert {v.dtype for v in half.values()} == {torch.float16}
    assert {v.dtype for v in full.values()} == {torch.float32}
    assert all(torch.equal(half[name], full[name].half()) for name in full)


def test_damaged_weights_are_named(configs, tmp_path):
    (tmp_path / "best.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"autoencoder: '.*best\.pt' is not a readable checkpoint"):
        export_model(tmp_path / "model.pt", configs, {"autoencoder": str(tmp_path / "best.pt")})
    assert not (tmp_path / "model.pt").exists()


def test_an_unknown_part_is_named(configs, tmp_path):
    with pytest.raises(ValueError, match="the network has no part decoder, it has autoencoder, denoiser"):
        export_model(tmp_path / "model.pt", configs, {"decoder": str(tmp_path / "best.pt")})
    assert not (tmp_path / "model.pt").exists()
