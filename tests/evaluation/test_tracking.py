"""The evaluation in a store of MLflow in a temporary folder."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from monai.utils import path_to_sqlite_uri
from small_study import Study, make_body

from scripts.evaluation import MLflowTracking
from scripts.evaluation.tracking import FILES, allowed
from scripts.tracking import LONGEST_VALUE

NAMES = ["Doe_Jane", "Roe_Richard"]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """A tracked evaluation: its folder, the summary, and names by code."""
    folder = tmp_path_factory.mktemp("study")
    study = Study(folder, [make_body(name, i) for i, name in enumerate(NAMES)])
    main = study.results("main", study.maps(0), method={"name": "Some", "num_inference_steps": 3})
    store = folder / "store"
    store.mkdir()
    tracking = {
        "_target_": "scripts.evaluation.MLflowTracking",
        "tracking_uri": path_to_sqlite_uri(store / "mlruns.db"),
        "experiment_name": "an experiment",
    }
    comparisons = {"P = 0 (unmasked)": study.results("other", study.maps(1))}
    summary = study.evaluation(main, tracking=tracking, comparisons=comparisons, title="x" * 600).run()
    key = dict(line.split(",") for line in (Path(main) / "evaluation" / "pseudonyms.csv").read_text().splitlines()[1:])
    return folder, summary, key


def rows(folder: Path, query: str) -> list[tuple]:
    with sqlite3.connect(folder / "store" / "mlruns.db") as database:
        return database.execute(query).fetchall()


def test_every_defined_number_is_tracked(tracked):
    folder, summary, _ = tracked
    metrics = dict(rows(folder, "select key, value from metrics"))
    expected = {
        f"{name}/{key}": entry["value"]
        for name, method in (
            ("masked", "masked"),
            ("P _ 0 _unmasked_", "P = 0 (unmasked)"),
            *[("bright sequence",) * 2],
        )
        for key, entry in summary["table"][method].items()
        if entry["value"] is not None
    }
    assert metrics == pytest.approx(expected)
    assert len(expected) > 200


def test_settings_and_data_are_tracked(tracked):
    folder, summary, _ = tracked
    parameters = dict(rows(folder, "select key, value from params"))
    assert parameters["map_postprocessing.SmoothSlicesd.median_size"] == "3" and parameters["subjects"] == "2"
    assert parameters["methods"] == "masked, P = 0 (unmasked), bright sequence"
    assert parameters["masked/method.num_inference_steps"] == "3"
    assert parameters["P _ 0 _unmasked_/score.weights"] == "-0.5, 1"
    own = {key.split(".")[0] for key in parameters if "/" not in key}
    assert own == {*summary["settings"], *summary["data"], "methods"}
    assert rows(folder, "select name from experiments where name != 'Default'") == [("an experiment",)]
    assert rows(folder, "select name, status from runs") == [("x" * 600, "FINISHED")]


def test_files_lie_beside_the_database_without_names(tracked):
    folder, summary, key = tracked
    stored = {path.name: path for path in (folder / "store" / "mlruns").rglob("*") if path.is_file()}
    pictures = {name for name, path in stored.items() if path.parent.name == "pictures"}
    assert set(stored) - pictures == set(FILES)
    assert {"curve_1.svg", "slice_1.png"} <= pictures
    assert stored["slice_1.png"].read_bytes()[:4] == b"\x89PNG" and b"<svg" in stored["curve_1.svg"].read_bytes()
    assert json.loads(stored["summary.json"].read_text()) == json.loads(json.dumps(summary))
    # Tracking implies pseudonyms: neither the files nor the database name anybody.
    assert set(key) == set(NAMES)
    for path in (*stored.values(), folder / "store" / "mlruns.db"):
        assert not [name for name in NAMES if name.encode() in path.read_bytes()], path
    assert all(code in stored["per_slice.csv"].read_text() for code in key.values())


def test_an_experiment_goes_on(tracked, tmp_path):
    folder, summary, _ = tracked
    tracking = MLflowTracking(path_to_sqlite_uri(folder / "store" / "mlruns.db"), "an experiment", "second")
    short = {**summary, "settings": {"long": "y" * 900}}
    tracking.log(short, tmp_path)
    assert [name for (name,) in rows(folder, "select name from runs order by start_time")][-1] == "second"
    assert len(rows(folder, "select distinct experiment_id from runs")) == 1
    assert rows(folder, "select value from params where key = 'long'") == [("y" * LONGEST_VALUE,)]


def test_names_that_are_allowed():
    assert allowed("P = 0 (ü), a.b-c_d/e") == "P _ 0 _ü__ a.b-c_d_e"
