"""What a client gets of another method's bundle, against ``run inference`` of that method."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from method_bundle import THRESHOLD, denoising_bundle

from .conftest import LabelServer


def voxels(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_a_denoising_autoencoder_is_served_as_the_first_method_is(
    serve: Callable[..., LabelServer], volume: Path, tmp_path: Path
):
    made, name = denoising_bundle(tmp_path), volume.name.removesuffix(".nii.gz")
    (tmp_path / "data").mkdir()
    shutil.copy(volume, tmp_path / "data")
    results = made.infer(tmp_path / "data", tmp_path / "expected") / name
    segmentation, anomaly_map = (voxels(results / f"{name}_{kind}.nii.gz") for kind in ("segmentation", "anomaly"))
    assert 0 < segmentation.mean() < 0.5 and anomaly_map.max() > THRESHOLD

    server = serve(made.folder, "denoising_autoencoder")
    described = server.described(upload=volume)
    np.testing.assert_allclose(voxels(described["anomaly_map"]["path"]), anomaly_map, rtol=0, atol=1e-5)
    with (results / f"{name}_scores.csv").open() as stream:
        rows = [{key: float(value) for key, value in row.items() if key != "subject"} for row in csv.DictReader(stream)]
    assert [list(row) for row in described["slices"]] == [list(row) for row in rows]
    assert list(rows[0]) == ["slice", "map_mean", "map_max"]
    for ours, theirs in zip(described["slices"], rows, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    # What tells diseased images from healthy ones is the method's choice: here it has no mask.
    assert described["image_score"] == pytest.approx(np.mean([row["map_mean"] for row in rows]), abs=1e-5)
    assert described["settings"] == {"anomaly_threshold": THRESHOLD, "seed": 0}

    label = server.labelled(upload=volume)
    assert label.get_data_dtype() == np.uint8 and np.array_equal(np.asarray(label.dataobj), segmentation)
    np.testing.assert_allclose(label.affine, nib.load(volume).affine, atol=1e-4)
    fewer = np.asarray(server.labelled(upload=volume, anomaly_threshold=1.0).dataobj)
    assert 0 < fewer.sum() < segmentation.sum()
    # Clients are shown the method's own settings alone.
    shown = json.loads(server.get("info/"))["models"][server.name]["config"]
    assert shown["anomaly_threshold"] == THRESHOLD and not {"noise_level", "num_inference_steps"} & shown.keys()
