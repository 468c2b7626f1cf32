"""What every method promises the rest of the bundle; the methods are those of ``configs/methods``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import CONFIGS, check_run, run_bundle, write_subject
from contract_cases import OVERLAYS, SIZE, Case, save_weights, stages, tiny_file

from scripts.describe import differences
from scripts.results import read_rows
from scripts.results.folder import FIRST_COLUMNS, LAST_COLUMNS

TRAINED = [(overlay, part) for overlay in OVERLAYS for part in stages(overlay)]


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda p: p.stem)
def case(request) -> Case:
    return Case(request.param)


def test_there_are_methods():
    assert {"autoencoder_residual", "unmasked"} <= {path.stem for path in OVERLAYS}


def test_says_what_it_promised(case: Case):
    images, steps = case.slices(3), []
    maps, restored = case.inferer.restore(images, torch.arange(3), case.network, on_step=lambda: steps.append(1))
    assert len(steps) == case.method.passes
    assert restored.reconstruction.shape == images.shape and restored.reconstruction.isfinite().all()
    assert set(restored.evidence) == set(case.method.evidence)
    assert all(e.shape[0] == 3 and e.shape[2:] == (SIZE, SIZE) for e in restored.evidence.values())
    assert set(restored.slice_scores) == set(case.method.slice_scores)
    assert all(s.shape == (3,) and s.isfinite().all() for s in restored.slice_scores.values())
    assert maps.shape == (3, 1, SIZE, SIZE) and maps.min() >= 0 and maps.dtype == torch.float32
    assert case.method.image_score in (*case.method.slice_scores, *LAST_COLUMNS)
    assert (restored.reconstruction[0] - restored.reconstruction[1]).abs().max() > 1e-3, "it does not look at the image"


def test_a_batch_equals_its_single_runs(case: Case):
    images, places = case.slices(3), torch.tensor([4, 0, 7])
    maps, together = case.inferer.restore(images, places, case.network)
    for row in range(3):
        one = slice(row, row + 1)
        own_map, alone = case.inferer.restore(images[one], places[one], case.network)
        torch.testing.assert_close(alone.reconstruction, together.reconstruction[one], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own_map, maps[one], atol=1e-4, rtol=1e-4)
        for name, scores in alone.slice_scores.items():
            torch.testing.assert_close(scores, together.slice_scores[name][one], atol=1e-4, rtol=1e-4)


def test_a_seed_replays_whatever_happened_before(case: Case):
    images, places = case.slices(2), torch.arange(2)
    torch.manual_seed(1)
    first, _ = case.inferer.restore(images, places, case.network)
    torch.manual_seed(2)
    case.inferer.restore(case.slices(2, seed=5), places, case.network)
    again, _ = case.inferer.restore(images, places, case.network)
    assert torch.equal(first, again)


def test_what_is_encoded_once_gives_the_same(case: Case):
    volume = case.slices(3).movedim(0, -1)[None]
    at_once = case.inferer.run_volumes(volume, case.network)[0]
    encoded = case.inferer.encode_volumes(volume, case.network)
    for _ in range(2):
        later = case.inferer.restore_volumes(encoded, case.network)[0]
        assert torch.equal(at_once.anomaly_map, later.anomaly_map)
        assert torch.equal(at_once.reconstruction, later.reconstruction)


def test_volumes_of_a_batch_do_not_meet(case: Case):
    volumes = torch.stack([case.slices(2, seed).movedim(0, -1) for seed in (0, 1)])
    volumes[1, ..., 0] = 0
    together = case.inferer.run_volumes(volumes, case.network)
    for volume, result in zip(volumes, together, strict=True):
        alone = case.inferer.run_volume(volume, case.network)
        torch.testing.assert_close(alone.anomaly_map, result.anomaly_map, atol=1e-4, rtol=1e-4)
        assert torch.equal(alone.processed, result.processed)
    assert together[1].processed.tolist() == [False, True]
    assert torch.equal(together[1].reconstruction[..., 0], volumes[1, ..., 0])
    assert not together[1].anomaly_map[..., 0].any()
    assert all(scores[0].isnan() and scores[1].isfinite() for scores in together[1].slice_scores.values())
    assert all(not evidence[..., 0].any() for evidence in together[1].evidence.values())


def test_describes_every_setting_and_its_changes(case: Case):
    said = case.method.describe()
    assert json.loads(json.dumps(said)) == said and said["name"] == type(case.method).__name__
    described = [f.name for f in dataclasses.fields(case.method) if f.metadata.get("describe", True)]
    assert set(said) >= set(described)
    assert case.method.replace().describe() == said
    with pytest.raises(ValueError, match=type(case.method).__name__):
        case.method.replace(no_such_setting=1)


def test_every_searchable_setting_changes_what_is_said(case: Case):
    for field in dataclasses.fields(case.method):
        if not field.metadata.get("symbol"):
            continue
        there = case.method.describe()[field.name]
        value = there / 2 if isinstance(there, float) and there else 1
        changed = case.method.replace(**{field.name: value}) if value != there else None
        if changed is not None:
            assert field.name in differences(case.method.describe(), changed.describe())
        with pytest.raises(ValueError, match=field.name):
            case.method.replace(**{field.name: -7})


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.stem)
def test_inference_from_the_command_line(overlay: Path, tmp_path: Path):
    """Files, columns and what a stored result says of itself."""
    write_subject(tmp_path / "data", "S1", 1)
    configs = [CONFIGS / "inference.json", overlay, tiny_file(tmp_path, overlay)]
    save_weights(tmp_path / "model.pt", *configs)
    arguments = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "weights": tmp_path / "model.pt"}
    check_run(run_bundle("inference", configs, **arguments))
    folder, settings = tmp_path / "out" / "S1", json.loads((tmp_path / "out" / "settings.json").read_text())
    method = Case(overlay).method
    assert settings["evidence"] == list(method.evidence) and settings["method"]["name"] == type(method).__name__
    image = nib.load(tmp_path / "data" / "S1" / "S1_t1.nii.gz")
    for name in ("anomaly", "segmentation", *method.evidence):
        stored = nib.load(folder / f"S1_{name}.nii.gz")
        assert stored.shape[:3] == image.shape and np.allclose(stored.affine, image.affine)
    assert nib.load(folder / "S1_reconstruction.nii.gz").shape == (*image.shape, 3)
    rows = read_rows(tmp_path / "out" / "scores.csv")
    assert rows and list(rows[0]) == [*FIRST_COLUMNS, *method.slice_scores, *LAST_COLUMNS]
    assert json.loads((folder / "S1_cost.json").read_text())["passes"] == method.passes


@pytest.mark.parametrize(("overlay", "part"), TRAINED, ids=lambda p: getattr(p, "stem", p))
def test_training_resumes_exactly_and_serves_inference(overlay: Path, part: str, tmp_path: Path):
    for number in range(2):
        write_subject(tmp_path / "data", f"S{number}", number)
    configs = [CONFIGS / "inference.json", CONFIGS / "train.json", overlay, tiny_file(tmp_path, overlay)]
    arguments = {"dataset_dir": tmp_path / "data", "part": part}
    once = {**arguments, "output_dir": tmp_path / "once"}
    check_run(run_bundle("training", configs, **once))
    # One epoch, then the second: the run ends early as if it had been stopped.
    parts = {**arguments, "output_dir": tmp_path / "parts"}
    check_run(run_bundle("training", configs, **parts, **{"train#trainer#max_epochs": 1}))
    check_run(run_bundle("training", configs, **parts))
    whole, resumed = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["objects"]["network"] for name in ("once", "parts")
    )
    assert whole and all(torch.equal(whole[key], resumed[key]) for key in whole)
