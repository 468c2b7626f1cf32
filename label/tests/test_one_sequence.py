"""A bundle of one sequence with tiny networks: 3D volumes, and weights that come and go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import BUNDLE, ROOT, TINY, TINY_AUTOENCODER, check_run, run_bundle

from scripts.export_model import export_model

from .conftest import LabelServer, stack

SAMPLE = BUNDLE / "sample" / "openms_patient07"
SETTINGS = {"sequences": ["flair"], "noise_level": 6, "num_inference_steps": 3, "anomaly_threshold": 0.2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle, its configuration changed to one sequence and tiny networks."""
    folder = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models", "sample", "docs", "output", "__pycache__"))
    config = folder / "configs" / "inference.json"
    networks = {key: TINY[key] for key in ("image_size", "amp", "denoiser", "probability_threshold")}
    changes = {**networks, "autoencoder": TINY_AUTOENCODER, **SETTINGS}
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    (folder / "models").mkdir()
    export_model(folder / "models" / "model.pt", [config])
    return folder


@pytest.fixture(scope="module")
def server(serve: Callable[..., LabelServer], bundle: Path) -> LabelServer:
    return serve(bundle, "one_sequence")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stack(SAMPLE, ["flair"], slice(5, 9), tmp_path_factory.mktemp("flat") / "flat.nii.gz")


def test_a_single_volume_gets_the_label_of_the_command_line(
    server: LabelServer, bundle: Path, volume: Path, tmp_path: Path
):
    # 144 x 176 pixels into the network's 64: the way back is a resampling too.
    check_run(
        run_bundle(
            "inference",
            [bundle / "configs" / "inference.json"],
            cwd=ROOT,
            bundle_root=bundle,
            dataset_dir=volume.parent,
            output_dir=tmp_path / "out",
            device="cpu",
        )
    )
    label = server.labelled(upload=volume)
    expected = nib.load(tmp_path / "out" / "flat" / "flat_segmentation.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj), np.asarray(expected.dataobj))
    assert 0 < np.asarray(label.dataobj).sum() < np.asarray(label.dataobj).size
    np.testing.assert_allclose(label.affine, nib.load(volume).affine, atol=1e-5)
    info = json.loads(server.get("info/"))["models"]["one_sequence"]
    shown = {key: info["config"][key] for key in SETTINGS if key != "sequences"}
    assert shown == {key: value for key, value in SETTINGS.items() if key != "sequences"}


def test_more_channels_than_the_model_has_are_refused(server: LabelServer, tmp_path: Path):
    both = stack(SAMPLE, ["t1", "flair"], slice(5, 7), tmp_path / "both.nii.gz")
    assert server.refused(upload=both).endswith("has 2 channel(s), 1 are wanted: flair.")


def test_missing_and_foreign_weights_are_refused(server: LabelServer, bundle: Path, volume: Path):
    """MONAI Label itself would go on with random weights."""
    path, kept = bundle / "models" / "model.pt", bundle / "kept.pt"
    usual = server.described(upload=volume)["slices"]
    path.rename(kept)
    try:
        assert "weights: no file" in server.refused(upload=volume)
        state = torch.load(kept, weights_only=True)
        foreign = {f"other.{key}": value for key, value in state.items()}
        for wrong, reason in (
            (foreign, "the weights do not belong to this network of autoencoder, denoiser"),
            (dict(list(state.items())[1:]), "1 keys missing (first: autoencoder."),
        ):
            torch.save(wrong, path)
            os.utime(path, ns=(0, len(wrong) * 10**9))
            assert reason in server.refused(upload=volume)
        # Another file with a shorter name would be taken in the configured one's place.
        kept.rename(path)
        shutil.copy(path, path.with_name("new.pt"))
        reason = server.refused(upload=volume, model_filename="new.pt")
        assert "'new.pt' would be loaded, the configuration (weights) wants 'model.pt'" in reason
    finally:
        if kept.exists():
            kept.replace(path)
        path.with_name("new.pt").unlink(missing_ok=True)
    assert server.described(upload=volume)["slices"] == usual
