"""Cells and the folder that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts.evaluation.bins import Bins
from scripts.evaluation.subjects import LabelledSubject
from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.schedulers import BernoulliScheduler
from scripts.search import SearchFolder
from scripts.search.cells import ARRAYS, Cell, load_cell, make_cell, merge_cells, save_cell
from scripts.search.grid import Setting

BINS = Bins()
METHOD = MaskedBernoulli(scheduler=BernoulliScheduler(20), noise_level=4, num_inference_steps=2)
SETTING = Setting(METHOD, {"noise_level": 4}, "L4_P0.5_S2", {"noise_level": 4})


SCORES = {"kl": np.array([0.1, 0.4, 0.2, 0.3]), "cosine": np.array([5.0, 7.0, 6.0, 8.0])}


def labelled(seed: int = 0) -> LabelledSubject:
    """Noise with an empty border; a lesion, of which a part lies outside the foreground, in slice 1."""
    rng = np.random.default_rng(seed)
    image = rng.random((2, 12, 10, 4)).astype(np.float32)
    image[:, :3] = 0
    label = np.zeros(image.shape[1:], dtype=bool)
    label[2:5, 2:6, 1] = True
    indices = np.arange(4)
    return LabelledSubject({"subject": "S"}, image, label, indices, indices, 4, int(label.sum()), np.eye(4))


def cell_of(seed: int = 0) -> tuple[LabelledSubject, np.ndarray, Cell]:
    subject = labelled(seed)
    processed = np.random.default_rng(seed + 100).random(subject.label.shape).astype(np.float32)
    return subject, processed, make_cell(subject, processed, SCORES, 2.5, BINS)


def assert_equal(first: Cell, second: Cell) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert list(first.slice_scores) == list(second.slice_scores)
    for name, values in first.slice_scores.items():
        np.testing.assert_array_equal(values, second.slice_scores[name])


def test_counts_each_foreground_pixel_once():
    subject, processed, cell = cell_of()
    ill = np.zeros(subject.label.shape, dtype=bool)
    ill[..., 1] = True
    inside = subject.image.max(axis=0) > 0
    for name, where in (
        ("lesion", inside & subject.label),
        ("healthy", inside & ~ill),
        ("beside", inside & ill & ~subject.label),
    ):
        values = np.sort(BINS.index(processed[where]))
        np.testing.assert_array_equal(np.repeat(np.arange(BINS.count), getattr(cell, name)), values)
    assert (cell.lesion + cell.lesion_free).sum() == inside.sum()
    assert cell.diseased.tolist() == [False, True, False, False]
    np.testing.assert_allclose(cell.map_mean, [processed[3:, :, k].mean() for k in range(4)], rtol=1e-6)


def test_survives_the_file_without_pickle(tmp_path: Path):
    _, _, cell = cell_of()
    save_cell(tmp_path / "cell.npz", cell)
    loaded = load_cell(tmp_path / "cell.npz", BINS)
    assert loaded is not None
    assert_equal(loaded, cell)
    assert [p.name for p in tmp_path.iterdir()] == ["cell.npz"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "bins"])
def test_broken_files_count_as_missing(tmp_path: Path, damage: str, caplog):
    path = tmp_path / "cell.npz"
    _, _, cell = cell_of()
    save_cell(path, cell)
    content = path.read_bytes()
    if damage == "pickle":
        with path.open("wb") as stream:
            np.savez(stream, **{name: np.array([{}], dtype=object) for name in ARRAYS})
    elif damage != "bins":
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no cell"}[damage])
    bins = Bins(mantissa_bits=7) if damage == "bins" else BINS
    assert load_cell(path, bins) is None
    assert "is broken" in caplog.text and str(path) in caplog.text


def test_merging_puts_subjects_together():
    (_, _, a), (_, _, b) = cell_of(0), cell_of(1)
    merged = merge_cells([a, b])
    np.testing.assert_array_equal(merged.lesion, a.lesion + b.lesion)
    assert merged.slices == 8 and float(merged.seconds) == 5.0
    assert merged.slice_scores["cosine"].tolist() == [5, 7, 6, 8, 5, 7, 6, 8]
    with pytest.raises(ValueError, match="no cells"):
        merge_cells([])


def test_a_subject_without_slices_has_an_empty_cell():
    image = np.zeros((1, 4, 4, 0), dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    subject = LabelledSubject({"subject": "S"}, image, np.zeros((4, 4, 0), dtype=bool), none, none, 3, 0, np.eye(4))
    cell = make_cell(subject, np.zeros((4, 4, 0), dtype=np.float32), {"kl": np.zeros(0)}, 0.0, BINS)
    assert cell.slices == 0 and cell.lesion.sum() == cell.lesion_free.sum() == 0


def test_scores_that_are_no_numbers_are_refused():
    subject = labelled()
    with pytest.raises(ValueError, match="subject S: 1 of kl are NaN"):
        make_cell(
            subject, np.zeros(subject.label.shape, dtype=np.float32), {"kl": np.array([0, np.nan, 0, 0])}, 0.0, BINS
        )


def item(folder: Path, size: int = 3) -> dict:
    folder.mkdir(exist_ok=True)
    for name in ("i.nii", "l.nii"):
        (folder / name).write_bytes(b"0" * size)
    return {"subject": "S", "image": [str(folder / "i.nii")], "label": str(folder / "l.nii")}


def test_folder_keeps_cells_and_subjects(tmp_path: Path):
    folder = SearchFolder(str(tmp_path / "search"), {"weights": "a", "range": (1, 2)})
    folder.write_subjects([item(tmp_path / "data")], seed=7)
    assert folder.cell("S", SETTING, BINS) is None
    folder.save("S", SETTING, cell_of()[2])
    again = SearchFolder(str(tmp_path / "search"), {"weights": "a", "range": [1, 2]})
    loaded = again.cell("S", SETTING, BINS)
    assert loaded is not None
    assert_equal(loaded, cell_of()[2])
    assert (tmp_path / "search/cells/S/L4_P0.5_S2.npz").is_file()
    subjects = json.loads((tmp_path / "search/subjects.json").read_text())
    assert subjects == {"seed": 7, "subjects": ["S"], "patients": ["S"]}


def test_folder_refuses_other_settings_and_other_files(tmp_path: Path, caplog):
    folder = SearchFolder(str(tmp_path / "search"), {"weights": "a", "seed": 0})
    folder.write_subjects([item(tmp_path / "data")], seed=7)
    with pytest.raises(ValueError, match=r"other settings .weights is 'a' there, 'b' here.. Choose another search_dir"):
        SearchFolder(str(tmp_path / "search"), {"weights": "b", "seed": 0})
    with pytest.raises(ValueError, match=r"another 'S'.*'l.nii', 3.*'l.nii', 5"):
        folder.write_subjects([item(tmp_path / "data", 5)], seed=7)
    (tmp_path / "search" / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings.json' is broken"):
        SearchFolder(str(tmp_path / "search"), {})
