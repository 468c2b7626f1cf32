"""A tiny model that masks for real, two labelled subjects, and a search over them within this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runner import BUNDLE, CONFIGS, tiny_overlay, write_subject
from monai.bundle import ConfigWorkflow

from scripts.export_model import export_model

GRID = {"noise_levels": [4, 8], "probability_thresholds": [0.4, 0.6], "step_counts": [3]}


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_overlay(tmp_path_factory.mktemp("overlay"), "inference", median_size=3)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, overlay: Path) -> Path:
    """Weights of which none is zero: MONAI's last layer starts at zero, so that no bit would ever be masked."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    export_model(path, [CONFIGS / "inference.json", overlay])
    state = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim > 1 and not value.any():
            value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects, one larger than the networks' images, one in another orientation, and one without a label."""
    folder = tmp_path_factory.mktemp("data")
    write_subject(folder, "A", 1, shape=(80, 72, 6), lesion_slices=(1, 2))
    affine = np.array([[0, 1.5, 0, 1], [0, 0, -4, 2], [1.5, 0, 0, 3], [0, 0, 0, 1]], dtype=np.float64)
    write_subject(folder, "B", 2, lesion_slices=(3,), shape=(40, 40, 40), affine=affine)
    write_subject(folder, "C", 3, lesion_slices=None)
    return folder


@pytest.fixture
def start(overlay: Path, model: Path, data: Path) -> Callable[..., ConfigWorkflow]:
    """Initialise the search, maybe of another kind of data, or with ``config=None`` the inference."""

    def start(output: Path, config: str | None = "search", **overrides) -> ConfigWorkflow:
        overlays = {None: [], "search": ["search.json"]}.get(config, [f"{config}.json", "search.json"])
        names = ["inference.json", *overlays]
        grid = GRID if config else {"anomaly_threshold": 0.5}
        settings = {"bundle_root": str(BUNDLE), "dataset_dir": str(data), "weights": str(model), **grid, **overrides}
        files = [*[str(CONFIGS / name) for name in names], str(overlay)]
        run_id = "search" if config else "inference"
        flow = ConfigWorkflow(
            files, run_id=run_id, workflow_type="infer", logging_file=False, output_dir=str(output), **settings
        )
        flow.initialize()
        return flow

    return start


@pytest.fixture(scope="session")
def no_seconds() -> Callable[[Path], list[dict[str, str]]]:
    """Rows of a table without what the clock said."""
    import csv

    def rows(path: Path) -> list[dict[str, str]]:
        with path.open(newline="") as stream:
            return [{k: v for k, v in row.items() if k != "seconds_per_slice"} for row in csv.DictReader(stream)]

    return rows


@pytest.fixture(scope="session")
def read_json() -> Callable[[Path], dict]:
    return lambda path: json.loads(path.read_text())
