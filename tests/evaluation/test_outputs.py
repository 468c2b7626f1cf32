"""The files of an evaluation: what they hold, and that codes stand in for names everywhere."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_study import Study, make_body, seen

from scripts.evaluation.outputs import write_table
from scripts.evaluation.pseudonyms import pseudonyms

NAMES = ["Doe_Jane", "Doe_Jane2", "patient-07", "S001"]
"""One is the beginning of another, and one looks like a code."""


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def study_in(folder: Path) -> Study:
    """Subjects whose names are in the data only, not in the paths above them."""
    return Study(folder, [make_body(name, i, (1, 2) if i else ()) for i, name in enumerate(NAMES)])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, dict, Path, dict]:
    """An evaluation with names: study, maps, folder of the evaluation, and the summary."""
    study = study_in(tmp_path_factory.mktemp("study"))
    maps = study.maps(0)
    main = study.results("main", maps)
    summary = study.evaluation(main, title="A <title>", notes=["a note"]).run()
    return study, maps, Path(main) / "evaluation", summary


def test_summary_is_what_run_returns(written):
    *_, folder, summary = written
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary, allow_nan=False))
    assert (summary["title"], summary["notes"][0]) == ("A <title>", "a note")
    assert summary["reference"] == "masked" and list(summary["methods"]) == ["masked", "bright sequence"]
    assert summary["data"]["subjects"] == 4 and summary["data"]["healthy_patients"] == 1
    smoothing = summary["settings"]["map_postprocessing"][0]
    assert (smoothing["name"], smoothing["median_size"]) == ("SmoothSlicesd", 3)
    assert re.fullmatch(r"\d+\.\d+\.\d+", summary["versions"]["python"])
    assert sorted(p.name for p in folder.iterdir()) == [
        *("per_slice.csv", "per_subject.csv", "report.html", "summary.json"),
    ]


def test_a_row_for_each_method_and_slice(written):
    study, maps, folder, _ = written
    rows = read_rows(folder / "per_slice.csv")
    assert [(r["method"], r["subject"], int(r["slice"])) for r in rows] == [
        (method, name, k) for method in ("masked", "bright sequence") for name in sorted(NAMES) for k in range(6)
    ]
    for row in rows[:24]:
        s, k = seen(study.bodies[row["subject"]], maps[row["subject"]]), int(row["slice"])
        assert float(row["map_mean"]) == pytest.approx(s.smooth[..., k][s.foreground[..., k]].mean(), rel=1e-6)
        assert int(row["lesion_pixels"]) == s.label[..., k].sum()
        assert float(row["mask_share"]) == s.mask_share[k]
        assert row["average_precision"] == "" if not s.label[..., k].any() else float(row["average_precision"]) > 0
    # Not defined is an empty cell, in the baseline's columns too.
    assert all(row["mask_share"] == row["psnr"] == row["dice_deployed"] == "" for row in rows[24:])
    assert "index" not in rows[0] and not any("nan" in row.values() for row in rows)


def test_a_row_for_each_method_and_subject(written):
    study, _, folder, _ = written
    slices, rows = read_rows(folder / "per_slice.csv"), read_rows(folder / "per_subject.csv")
    assert [(r["method"], r["subject"]) for r in rows] == [
        (method, name) for method in ("masked", "bright sequence") for name in sorted(NAMES)
    ]
    for row in rows:
        own = [s for s in slices if (s["method"], s["subject"]) == (row["method"], row["subject"])]
        label = study.bodies[row["subject"]].label
        assert (int(row["slices"]), int(row["lesion_pixels"])) == (6, label.sum())
        assert int(row["diseased_slices"]) == label.any(axis=(0, 1)).sum()
        for rule in ("calibrated", "deployed", "paper", "oracle"):
            if (row["method"], rule) == ("bright sequence", "deployed"):
                assert row["dice_deployed"] == ""
                continue
            tp, fp, fn = (sum(int(s[f"{name}_{rule}"]) for s in own) for name in ("tp", "fp", "fn"))
            expected = 2 * tp / (2 * tp + fp + fn) if label.any() else float(fp == 0)
            assert float(row[f"dice_{rule}"]) == pytest.approx(expected)
            assert row[f"sensitivity_{rule}"] == ("" if not label.any() else str(tp / (tp + fn)))
            assert row[f"precision_{rule}"] == (str(tp / (tp + fp)) if tp + fp else "")


def test_report_shows_names_and_panels(written):
    *_, folder, summary = written
    # What follows would see nothing if names were never there.
    assert {name for _, name in names_in(folder)} >= set(NAMES)
    page = (folder / "report.html").read_text()
    assert "A &lt;title&gt;" in page and "a note" in page
    for metric in summary["metrics"].values():
        assert metric["title"].split(" (")[0] in page.replace("&#39;", "'")
    assert "slice " in page and any(name in page for name in NAMES)


def names_in(folder: Path) -> list[tuple[str, str]]:
    """Files that hold a subject's name, with the name."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "pseudonyms.csv"):
        # Any four characters may come up in pictures by chance.
        content = re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", path.read_text())
        found += [(path.name, name) for name in [*NAMES, "missing_one", "Doe", "Jane"] if name in content]
    return found


def test_pseudonyms_hide_every_name_and_stay(tmp_path):
    """Nothing but the key tells names, and a second evaluation finds the key again."""
    study = study_in(tmp_path)
    main = study.results("main", study.maps(0))
    notes = ["Chosen on Doe_Jane2, Doe_Jane, missing_one and S001.", "patient-07."]
    # A subject without results is not judged, but a note may name it.
    study.write_body(make_body("missing_one", 9))
    evaluation = study.evaluation(main, pseudonymise=True, notes=notes)
    first = evaluation.run()
    folder = Path(main) / "evaluation"
    assert list(evaluation.evaluator.failures.messages) == ["missing_one"]
    key = dict(line.split(",") for line in (folder / "pseudonyms.csv").read_text().splitlines()[1:])
    assert set(key) == {*NAMES, "missing_one"}
    codes = set(key.values())
    assert len(codes) == 5 and not codes & set(NAMES)
    assert names_in(folder) == []
    expected = "Chosen on {Doe_Jane2}, {Doe_Jane}, {missing_one} and {S001}.".format(**key)
    assert first["notes"][:2] == [expected, f"{key['patient-07']}."]
    per_slice = {row["subject"] for row in read_rows(folder / "per_slice.csv")}
    assert (
        per_slice == {row["subject"] for row in read_rows(folder / "per_subject.csv")} == codes - {key["missing_one"]}
    )
    # The order of the data list would tell the names again.
    for file in ("per_slice.csv", "per_subject.csv"):
        listed = [row["subject"] for row in read_rows(folder / file) if row["method"] == "masked"]
        assert listed == sorted(listed), file
    report = (folder / "report.html").read_text()
    assert any(f"{code}, slice" in report for code in codes)

    before = (folder / "pseudonyms.csv").read_text()
    evaluation = study.evaluation(main, pseudonymise=True)
    evaluation.run()
    assert (folder / "pseudonyms.csv").read_text() == before
    # The rows of a code are those of its subject.
    lesions = {name: body.label.sum() for name, body in study.bodies.items()}
    rows = read_rows(folder / "per_subject.csv")
    assert {r["subject"]: int(r["lesion_pixels"]) for r in rows} == {key[n]: total for n, total in lesions.items()}


def test_codes_are_drawn_kept_and_added_to(tmp_path):
    path = tmp_path / "key.csv"
    names = [f"name {i}, of many" for i in range(40)]
    first = pseudonyms(names, path)
    assert sorted(first.values()) == [f"S{i:03d}" for i in range(1, 41)]
    # In an order that tells nothing: forty names in their own order come up once in 40! times.
    assert list(first.values()) != sorted(first.values())
    assert pseudonyms(names[::-1], path) == first
    more = pseudonyms([*names[:3], "new"], path)
    assert more["new"] == "S041" and all(more[name] == first[name] for name in names[:3])
    assert pseudonyms(names, path) == first
    assert pseudonyms(["b", "S001", "S002"], tmp_path / "other.csv").keys() == {"b", "S001", "S002"}
    assert set(pseudonyms(["b", "S001", "S002"], tmp_path / "other.csv").values()) == {"S003", "S004", "S005"}


def test_folder_that_cannot_be_written(tmp_path):
    study = study_in(tmp_path)
    main = study.results("main", study.maps(0))
    (tmp_path / "file").touch()
    evaluation = study.evaluation(main, evaluation_dir=str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write in"):
        evaluation.run()
    # Found out before the work, not after it.
    assert not evaluation.evaluator.subjects


def test_tables_have_all_columns_of_all_rows(tmp_path):
    write_table(tmp_path / "t.csv", [{"a": 1}, {"b": 'quoted, "x"', "a": np.float64(0.1)}])
    assert read_rows(tmp_path / "t.csv") == [{"a": "1", "b": ""}, {"a": "0.1", "b": 'quoted, "x"'}]
    write_table(tmp_path / "t.csv", [])
    assert read_rows(tmp_path / "t.csv") == []
