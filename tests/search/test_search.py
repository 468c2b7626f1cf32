"""The whole search on tiny networks: against plain inference, interrupted, extended, refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_runner import write_prepared, write_subject
from sklearn.metrics import average_precision_score

from scripts.evaluation.bins import Bins
from scripts.evaluation.sources import StoredResults
from scripts.networks import BinarizingAutoencoder
from scripts.search import SearchFolder
from scripts.search.cells import load_cell

FILES = ("cells.csv", "search.csv", "heat_map.png", "mask_share.png", "winner.json", "subjects.json", "settings.json")


@pytest.fixture(scope="module")
def _outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture
def finished(_outputs: Path, start: Callable) -> Path:
    """Search folder of an undisturbed run; made once, not to be changed."""
    folder = _outputs / "out" / "search"
    if not folder.is_dir():
        start(_outputs / "out").run()
    return folder


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of slices of each call of the encoder, by whomever."""
    calls: list[int] = []
    encode = BinarizingAutoencoder.encode

    def counting(self, images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(BinarizingAutoencoder, "encode", counting)
    return calls


@pytest.fixture
def slices(finished: Path, no_seconds: Callable) -> dict[str, int]:
    """Processed slices of each subject."""
    return {row["subject"]: int(row["slices"]) for row in no_seconds(finished / "cells.csv")}


def cells_of(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """All cells by place, without what the clock said."""
    found = {}
    for path in sorted(folder.glob("cells/*/*.npz")):
        with np.load(path, allow_pickle=False) as content:
            found[str(path.relative_to(folder))] = {k: content[k] for k in content.files if k != "seconds"}
    return found


def assert_same(first: Path, second: Path, no_seconds: Callable, read_json: Callable) -> None:
    a, b = cells_of(first), cells_of(second)
    assert a.keys() == b.keys() and len(a) == 8
    for place, cell in a.items():
        for name, value in cell.items():
            np.testing.assert_array_equal(value, b[place][name], err_msg=f"{place} {name}")
    for name in ("search.csv", "cells.csv"):
        assert no_seconds(first / name) == no_seconds(second / name)
    for name in ("winner.json", "subjects.json", "settings.json"):
        assert read_json(first / name) == read_json(second / name)


def test_writes_everything_and_the_settings_differ(finished, no_seconds, read_json):
    assert {path.name for path in finished.iterdir()} == {*FILES, "cells"}
    rows = no_seconds(finished / "search.csv")
    assert [row["setting"] for row in rows] == [f"L{level}_P{p}_S3" for level in (4, 8) for p in (0.4, 0.6)]
    assert all(row["subjects"] == "2" for row in rows)
    assert (
        len({row["average_precision"] for row in rows}) == 4 and len({row["mask_share_healthy"] for row in rows}) == 4
    )
    cells = no_seconds(finished / "cells.csv")
    assert [(row["subject"], row["setting"]) for row in cells] == [(s, r["setting"]) for s in "AB" for r in rows]
    winner = read_json(finished / "winner.json")
    best = max(rows, key=lambda row: float(row["average_precision"]))
    assert (winner["setting"]["name"], winner["metric"]) == (best["setting"], "average_precision")
    assert winner["value"] == float(best["average_precision"]) and winner["subjects"] == ["A", "B"]
    assert winner["note"] == "chosen on these subjects: optimistic on them"


def test_encodes_each_subject_once(tmp_path, start, slices, encodings):
    start(tmp_path).run()
    # Once for all of the four settings.
    assert slices["A"] == 6 and slices["B"] > 8
    assert sum(encodings) == slices["A"] + slices["B"]
    encodings.clear()
    start(tmp_path).run()
    assert encodings == []


@pytest.mark.parametrize(("level", "threshold"), [(4, 0.6), (8, 0.4)])
def test_a_cell_is_what_inference_and_evaluation_say(tmp_path, start, finished, level, threshold):
    """The inference workflow writes NIfTI under this setting; its map is read back and judged by sklearn."""
    setting = {"noise_level": level, "probability_threshold": threshold, "num_inference_steps": 3}
    start(tmp_path, None, **setting).run()
    parser = start(tmp_path / "unused").parser
    reader, protocol = parser.get_parsed_content("reader"), parser.get_parsed_content("protocol")
    score, setting = parser.get_parsed_content("anomaly_map"), f"L{level}_P{threshold}_S3"
    source = StoredResults(str(tmp_path), parser.get_parsed_content("layout"), score)
    for item in parser.get_parsed_content("search_items"):
        subject = reader(item)
        maps = source.read(subject)
        processed = protocol.process(maps.anomaly_map, subject.image)
        cell = load_cell(finished / f"cells/{subject.name}" / f"{setting}.npz", Bins())
        inside, ill = subject.foreground, np.broadcast_to(subject.diseased, subject.label.shape)
        for name, where in (
            ("lesion", inside & subject.label),
            ("healthy", inside & ~ill),
            ("beside", inside & ill & ~subject.label),
        ):
            np.testing.assert_array_equal(getattr(cell, name), Bins().histogram(processed[where]))
        # Scores are stored with six digits.
        assert list(cell.slice_scores) == ["mask_share"] and maps.slice_scores["mask_share"].any()
        np.testing.assert_allclose(cell.slice_scores["mask_share"], maps.slice_scores["mask_share"], rtol=1e-5)
        truth, values = subject.label[inside], processed[inside]
        rows = _rows(finished / "cells.csv")
        row = rows[subject.name, setting]
        assert float(row["average_precision"]) == pytest.approx(average_precision_score(truth, values), rel=1e-2)
        exact = average_precision_score(truth, Bins().index(values))
        assert float(row["average_precision"]) == pytest.approx(exact, rel=1e-9)


def _rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    import csv

    with path.open(newline="") as stream:
        return {(row["subject"], row["setting"]): row for row in csv.DictReader(stream)}


def test_an_interrupted_search_goes_on_where_it_was(
    tmp_path, start, finished, slices, encodings, no_seconds, read_json, monkeypatch
):
    save, saved = SearchFolder.save, []

    def interrupted(self, subject, setting, cell):
        if len(saved) == 5:
            raise KeyboardInterrupt
        saved.append((subject, setting.name))
        save(self, subject, setting, cell)

    with monkeypatch.context() as patch:
        patch.setattr(SearchFolder, "save", interrupted)
        with pytest.raises(BaseException):  # noqa: B017
            start(tmp_path).run()
    folder = tmp_path / "search"
    assert len(cells_of(folder)) == 5 and not (folder / "search.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*.npz")}
    encodings.clear()
    start(tmp_path).run()
    # Only the second subject is looked at again, and no finished cell is written again.
    assert sum(encodings) == slices["B"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert_same(folder, finished, no_seconds, read_json)


def test_deleted_and_damaged_cells_are_computed_again(tmp_path, start, finished, no_seconds, read_json, caplog):
    folder = tmp_path / "search"
    shutil.copytree(finished, folder)
    (folder / "cells/A/L8_P0.4_S3.npz").unlink()
    damaged = folder / "cells/B/L4_P0.6_S3.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    start(tmp_path).run()
    assert "is broken" in caplog.text
    assert_same(folder, finished, no_seconds, read_json)


def test_the_grid_and_the_subjects_may_grow(tmp_path, start, slices, encodings, read_json, finished):
    start(tmp_path, search_subjects=1, probability_thresholds=[0.4]).run()
    folder = tmp_path / "search"
    first = read_json(folder / "subjects.json")["subjects"]
    assert len(first) == 1 and len(cells_of(folder)) == 2
    assert read_json(folder / "winner.json")["subjects"] == first
    encodings.clear()
    start(tmp_path).run()
    assert sum(encodings) == slices["A"] + slices["B"]
    assert read_json(folder / "subjects.json")["subjects"] == ["A", "B"]
    assert cells_of(folder).keys() == cells_of(finished).keys()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("seed", 5, "seed is 0 there, 5 here"),
        ("median_size", 1, "map_postprocessing is"),
        ("upper_percentile", 99.0, "preprocessing is"),
        ("sequences", ["t1", "t1ce", "flair"], "sequences is"),
        ("num_train_timesteps", 900, "method.scheduler.num_train_timesteps is 1000 there, 900 here"),
    ],
)
def test_cells_of_other_settings_are_refused(tmp_path, start, finished, key, value, named):
    shutil.copytree(finished, tmp_path / "search")
    with pytest.raises(Exception) as error:
        start(tmp_path, **{key: value})
    assert named in _messages(error.value) and "Choose another search_dir" in _messages(error.value)


def test_cells_of_other_weights_are_refused(tmp_path, start, finished, model):
    shutil.copytree(finished, tmp_path / "search")
    state = torch.load(model, weights_only=True)
    next(iter(state.values())).mul_(1.5)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(Exception) as error:
        start(tmp_path, weights=str(tmp_path / "other.pt"))
    assert "weights is" in _messages(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("noise_levels", [4, 1001], "noise_level must be a whole number in [1, 1000], got 1001"),
        ("probability_thresholds", [], "probability_threshold must be a list with at least one value"),
        ("search_axes", {"noise_levels": [4]}, "MaskedBernoulli has no setting 'noise_levels' to search over"),
        ("search_subjects", 0, "search_subjects must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, start, key, value, message):
    with pytest.raises(Exception) as error:
        start(tmp_path / "out", **{key: value})
    assert message in _messages(error.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_metric_is_refused(tmp_path, start):
    with pytest.raises(Exception) as error:
        start(tmp_path, search_metric="accuracy").run()
    assert "search_metric must be one of average_precision" in _messages(error.value)
    assert not list((tmp_path / "search").glob("cells/*"))


def test_a_subject_that_fails_is_left_out_for_all_settings(tmp_path, start, no_seconds, read_json):
    data = tmp_path / "data"
    for number, name in enumerate("AB"):
        write_subject(data, name, number)
    label = next((data / "A").glob("*_seg.nii.gz"))
    label.write_bytes(b"no volume")
    with pytest.raises(SystemExit):
        start(tmp_path, dataset_dir=str(data)).run()
    folder = tmp_path / "search"
    assert {row["subject"] for row in no_seconds(folder / "cells.csv")} == {"B"}
    assert read_json(folder / "winner.json")["subjects"] == ["B"]


def test_single_slices_are_searched_too(tmp_path, start, no_seconds, encodings):
    """Prepared slices: pictures without an axis of slices, labels inside the image files."""
    write_prepared(tmp_path / "data", 4, 3, label=True)
    start(tmp_path, "data/prepared_slices", dataset_dir=str(tmp_path / "data"), search_subjects=None).run()
    rows = no_seconds(tmp_path / "search" / "search.csv")
    assert len(encodings) == 4 and len(rows) == 4
    assert all((row["slices"], row["diseased_slices"]) == ("4", "2") for row in rows)
    assert all(0 < float(row[key]) <= 1 for row in rows for key in ("average_precision", "mask_share_auroc"))


def test_no_subject_left_is_an_error(tmp_path, start):
    data = tmp_path / "data"
    write_subject(data, "A", 0, lesion_slices=None)
    with pytest.raises(Exception) as error:
        start(tmp_path, dataset_dir=str(data)).run()
    assert "none of 1 subjects could be searched on (A: subject A: no label to judge by.)" in _messages(error.value)


def _messages(error: BaseException | None) -> str:
    """All messages of a chain: MONAI wraps errors in its own."""
    found = ""
    while error is not None:
        found += f"{error}\n"
        error = error.__cause__ or error.__context__
    return found
