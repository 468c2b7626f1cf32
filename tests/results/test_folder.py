from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.results import ResultFolder, read_rows, source_of, write_rows

SETTINGS = {"noise_level": 200, "sequences": ["t1", "flair"], "weights": "abc", "slice_range": None}


def rows(subject: str, numbers) -> list[dict]:
    return [
        {"subject": subject, "slice": n, "mask_share": f"{n / 10:.6g}", "map_mean": 0.25, "map_max": "1e-05"}
        for n in numbers
    ]


def finish(results: ResultFolder, subject: str, numbers=(1, 2)) -> None:
    with results.writing(subject) as folder:
        write_rows(folder / f"{subject}_scores.csv", rows(subject, numbers))


def names(folder: Path) -> set[str]:
    """Without what tells where a subject's results come from."""
    return {p.name for p in folder.iterdir() if not p.name.endswith("_source.json")}


class TestSettings:
    def test_are_written_and_accepted_again(self, tmp_path):
        ResultFolder(str(tmp_path / "new" / "out"), SETTINGS)
        assert json.loads((tmp_path / "new" / "out" / "settings.json").read_text()) == SETTINGS
        again = ResultFolder(str(tmp_path / "new" / "out"), dict(reversed(SETTINGS.items())))
        assert again.settings == SETTINGS

    def test_tuples_are_lists(self, tmp_path):
        ResultFolder(str(tmp_path), SETTINGS)
        assert ResultFolder(str(tmp_path), {**SETTINGS, "sequences": ("t1", "flair")}).settings == SETTINGS

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"noise_level": 100}, "noise_level is 200 there, 100 here"),
            ({"sequences": ["flair", "t1"]}, "sequences is .'t1', 'flair'. there, .'flair', 't1'. here"),
            ({"slice_range": [1, 2]}, "slice_range is None there, .1, 2. here"),
            ({"new": 1}, "new is None there, 1 here"),
        ],
    )
    def test_others_are_refused_by_name(self, tmp_path, change, message):
        ResultFolder(str(tmp_path), SETTINGS)
        with pytest.raises(ValueError, match=message) as caught:
            ResultFolder(str(tmp_path), {**SETTINGS, **change})
        assert str(tmp_path) in str(caught.value)
        assert "weights" not in str(caught.value)
        assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS

    def test_every_difference_is_named(self, tmp_path):
        ResultFolder(str(tmp_path), SETTINGS)
        with pytest.raises(ValueError, match=r"noise_level is 200 there, 1 here; weights is 'abc' there, 'x' here"):
            ResultFolder(str(tmp_path), {**SETTINGS, "noise_level": 1, "weights": "x"})

    def test_a_missing_setting_is_a_difference(self, tmp_path):
        ResultFolder(str(tmp_path), SETTINGS)
        with pytest.raises(ValueError, match="weights is 'abc' there, None here"):
            ResultFolder(str(tmp_path), {k: v for k, v in SETTINGS.items() if k != "weights"})

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="output_dir: cannot write in"):
            ResultFolder(str(tmp_path / "file" / "out"), SETTINGS)


class TestSubjects:
    @pytest.fixture
    def results(self, tmp_path) -> ResultFolder:
        return ResultFolder(str(tmp_path), SETTINGS)

    def test_a_subject_appears_when_it_is_finished(self, results):
        with results.writing("a") as folder:
            (folder / "x.txt").write_text("1")
            assert not results.subject_folder("a").exists()
        assert names(results.subject_folder("a")) == {"x.txt"}
        assert names(results.folder) == {"settings.json", "a"}

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("there", [False, True])
    def test_a_crash_leaves_nothing_new(self, results, error, there):
        if there:
            finish(results, "a")
        with pytest.raises(error), results.writing("a") as folder:
            (folder / "half.txt").write_text("1")
            raise error
        assert names(results.folder) == {"settings.json", "a"} if there else {"settings.json"}
        assert not there or names(results.subject_folder("a")) == {"a_scores.csv"}

    def test_writing_again_replaces(self, results):
        finish(results, "a")
        with results.writing("a") as folder:
            (folder / "new.txt").touch()
        assert names(results.subject_folder("a")) == {"new.txt"}

    def test_a_foreign_folder_is_neither_finished_nor_replaced(self, results):
        (results.folder / "a").mkdir()
        (results.folder / "a" / "mine.txt").write_text("x")
        assert not results.is_finished("a")
        assert len(results.unfinished([{"subject": "a"}])) == 1
        with pytest.raises(OSError, match=r"'.*a' exists and holds no results"):
            finish(results, "a")
        assert names(results.subject_folder("a")) == {"mine.txt"}
        assert names(results.folder) == {"settings.json", "a"}

    def test_unfinished(self, results):
        datalist = [{"subject": s, "image": s} for s in ("c", "a", "b")]
        assert results.unfinished(datalist) == datalist
        finish(results, "a")
        with pytest.raises(ValueError, match="crash"), results.writing("c"):
            raise ValueError("crash")
        assert [i["subject"] for i in results.unfinished(datalist)] == ["c", "b"]
        again = ResultFolder(str(results.folder), SETTINGS)
        assert [i["subject"] for i in again.unfinished(datalist)] == ["c", "b"]

    @pytest.mark.parametrize("several", [False, True])
    def test_results_of_other_files_are_refused(self, results, several):
        data = results.folder.parent / f"{results.folder.name}_data"
        data.mkdir()
        paths = [data / "a_t1.nii", data / "a_t2.nii"]
        for path in paths:
            path.write_bytes(b"12345")
        item = {"subject": "a", "image": [str(p) for p in paths] if several else str(paths[0])}
        results.unfinished([item])
        finish(results, "a")
        assert ResultFolder(str(results.folder), SETTINGS).unfinished([item]) == []
        paths[several].write_bytes(b"another patient")
        with pytest.raises(ValueError, match=r"results of another 'a'.*\['a_t\d\.nii', 5\].*\['a_t\d\.nii', 15\]"):
            ResultFolder(str(results.folder), SETTINGS).unfinished([item])

    def test_what_a_killed_run_left_is_not_finished(self, results):
        (results.folder / ".a.12345.partial").mkdir()
        write_rows(results.folder / ".a.12345.partial" / "a_scores.csv", rows("a", [7]))
        assert len(results.unfinished([{"subject": "a"}])) == 1
        finish(results, "a")
        assert [r["slice"] for r in read_rows(results.write_scores())] == ["1", "2"]

    def test_what_a_killed_run_left_goes_with_the_next(self, results):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        for process in (child.pid, os.getpid()):
            (results.folder / f".a.{process}.partial").mkdir()
            (results.folder / f".a.{process}.partial" / "x").touch()
        ResultFolder(str(results.folder), SETTINGS)
        assert names(results.folder) == {"settings.json", f".a.{os.getpid()}.partial"}

    def test_scores_of_all_subjects(self, results):
        for subject, numbers in (("b", (9, 10)), ("a", (2,)), ("empty", ())):
            finish(results, subject, numbers)
        path = results.write_scores()
        assert path == results.folder / "scores.csv"
        with path.open(newline="") as stream:
            table = list(csv.reader(stream))
        assert table[0] == ["subject", "slice", "mask_share", "map_mean", "map_max"]
        assert table[1:] == [
            ["a", "2", "0.2", "0.25", "1e-05"],
            ["b", "9", "0.9", "0.25", "1e-05"],
            ["b", "10", "1", "0.25", "1e-05"],
        ]
        finish(results, "c", (4,))
        assert len(read_rows(results.write_scores())) == 4

    def test_no_subject_is_a_table_of_no_rows(self, results):
        assert results.write_scores().read_text().splitlines() == ["subject,slice,map_mean,map_max"]


class TestColumns:
    """What stands between ``slice`` and ``map_mean`` is what the method has, in the order that it comes."""

    def row(self, number: int, **own: str) -> dict:
        return {"subject": "a", "slice": number, "map_mean": 0.5, **own, "map_max": 1}

    @pytest.mark.parametrize(
        ("rows", "columns"),
        [
            ([{}], []),
            ([{"kl": "1", "cosine": "2"}], ["kl", "cosine"]),
            ([{"cosine": "2"}, {"kl": "1"}], ["cosine", "kl"]),
            ([{}, {"kl": "1"}], ["kl"]),
        ],
    )
    def test_as_they_come(self, tmp_path, rows, columns):
        path = tmp_path / "x.csv"
        write_rows(path, [self.row(number, **own) for number, own in enumerate(rows)])
        with path.open(newline="") as stream:
            header, *lines = list(csv.reader(stream))
        assert header == ["subject", "slice", *columns, "map_mean", "map_max"]
        for number, (own, line) in enumerate(zip(rows, lines, strict=True)):
            assert line == ["a", str(number), *(own.get(name, "") for name in columns), "0.5", "1"]
        assert read_rows(path) == [dict(zip(header, line, strict=True)) for line in lines]

    def test_of_all_subjects_without_scores_of_their_own(self, tmp_path):
        results = ResultFolder(str(tmp_path), SETTINGS)
        with results.writing("a") as folder:
            write_rows(folder / "a_scores.csv", [self.row(1), self.row(2)])
        table = results.write_scores().read_text().splitlines()
        assert table == ["subject,slice,map_mean,map_max", "a,1,0.5,1", "a,2,0.5,1"]


def test_rows_round_trip_awkward_names(tmp_path):
    awkward = rows('a,"b"\nc', [3])
    write_rows(tmp_path / "x.csv", awkward)
    assert read_rows(tmp_path / "x.csv") == [{k: str(v) for k, v in awkward[0].items()}]


class TestSource:
    @pytest.fixture
    def paths(self, tmp_path) -> list[str]:
        for number, name in enumerate(("b_t1.nii", "a_t2.nii")):
            (tmp_path / name).write_bytes(b"x" * (number + 3))
        return [str(tmp_path / "b_t1.nii"), str(tmp_path / "a_t2.nii")]

    def test_names_and_sizes_in_order(self, paths):
        assert source_of({"subject": "a", "image": paths}) == [["b_t1.nii", 3], ["a_t2.nii", 4]]
        assert source_of({"subject": "a", "image": paths[1]}) == [["a_t2.nii", 4]]

    def test_what_is_no_file_is_left_out(self, paths, tmp_path):
        assert source_of({"image": [paths[0], str(tmp_path / "none"), str(tmp_path)]}) == [["b_t1.nii", 3]]
        assert source_of({"subject": "a"}) == []

    def test_is_stored_with_the_results(self, paths, tmp_path):
        results, item = ResultFolder(str(tmp_path / "out"), SETTINGS), {"subject": "a", "image": paths}
        results.unfinished([item])
        finish(results, "a")
        stored = json.loads((results.subject_folder("a") / "a_source.json").read_text())
        assert stored == source_of(item) == [["b_t1.nii", 3], ["a_t2.nii", 4]]
