from __future__ import annotations

import json

import pytest

from scripts.data.splits import split_datalist

SUBJECTS = [{"subject": f"s{n:03d}_{visit}", "patient": f"p{n:03d}"} for n in range(60) for visit in "ab"]


def patients(items) -> set[str]:
    return {item["patient"] for item in items}


@pytest.mark.parametrize("seed", [0, 1, 17])
@pytest.mark.parametrize("val_fraction", [0.01, 0.2, 0.5, 0.99])
def test_no_patient_is_on_both_sides_and_none_is_lost(seed, val_fraction):
    split = split_datalist(SUBJECTS, val_fraction=val_fraction, seed=seed)
    assert list(split) == ["training", "validation"]
    assert not patients(split["training"]) & patients(split["validation"])
    everything = split["training"] + split["validation"]
    assert sorted(i["subject"] for i in everything) == sorted(i["subject"] for i in SUBJECTS)
    assert all(split.values())


def test_the_share_is_about_the_wanted_one():
    many = [{"subject": str(n), "patient": str(n)} for n in range(2000)]
    for fraction in (0.1, 0.2, 0.5):
        share = len(split_datalist(many, val_fraction=fraction)["validation"]) / len(many)
        assert share == pytest.approx(fraction, abs=0.04)


def test_deterministic_whatever_the_order():
    split = split_datalist(SUBJECTS, seed=3)
    again = split_datalist(SUBJECTS[::-1], seed=3)
    assert patients(split["validation"]) == patients(again["validation"])
    assert split["training"] == again["training"][::-1]


def test_the_seed_draws_anew():
    assert len({frozenset(patients(split_datalist(SUBJECTS, seed=s)["validation"])) for s in range(5)}) == 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("known", [10, 25, 40])
def test_adding_patients_moves_none_of_the_others(seed, known):
    few = [i for i in SUBJECTS if int(i["patient"][1:]) < known]
    before, after = split_datalist(few, seed=seed), split_datalist(SUBJECTS, seed=seed)
    for side in ("training", "validation"):
        assert patients(before[side]) == patients(after[side]) & patients(few)


@pytest.mark.parametrize("val_fraction", [1e-6, 1 - 1e-6])
def test_no_side_is_left_empty(val_fraction):
    split = split_datalist(SUBJECTS, val_fraction=val_fraction)
    smaller = split["validation" if val_fraction < 0.5 else "training"]
    assert len(patients(smaller)) == 1
    assert len(smaller) == 2


def test_a_folder_of_its_own_for_validation():
    training, validation = SUBJECTS[:40], SUBJECTS[40:50]
    assert split_datalist(training, validation) == {"training": training, "validation": validation}


@pytest.mark.parametrize("val_datalist", [None, [{"subject": "other", "patient": "other"}]])
def test_what_is_written_is_read_back(tmp_path, val_datalist):
    path = tmp_path / "new" / "folder" / "split.json"
    split = split_datalist(SUBJECTS, val_datalist, seed=5, output_file=str(path))
    written = json.loads(path.read_text())
    assert written == {side: [i["subject"] for i in items] for side, items in split.items()}
    assert split_datalist(SUBJECTS, val_datalist, split_file=str(path), seed=6, val_fraction=0.9) == split


def test_a_split_file_may_leave_subjects_out(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"training": ["s003_a", "s001_a"], "validation": ["s002_b"], "note": "mine"}))
    split = split_datalist(SUBJECTS, split_file=str(path))
    assert [i["subject"] for i in split["training"]] == ["s003_a", "s001_a"]
    assert [i["patient"] for i in split["validation"]] == ["p002"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": ["s001_a"], "validation": ["s001_b"]}, "both sides.*p001"),
        ({"training": ["s001_a"], "validation": []}, "no subject for validation"),
        ({"training": [], "validation": ["s001_b"]}, "no subject for training"),
        ({"training": ["s001_a"], "validation": ["s999_a", "s998_a"]}, "not there: s999_a, s998_a"),
        ({"training": ["s001_a"]}, "must hold the lists 'training' and 'validation'"),
        ({"training": ["s001_a"], "validation": "s002_a"}, "must hold the lists"),
        (["s001_a"], "must hold the lists"),
    ],
)
def test_bad_split_files(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        split_datalist(SUBJECTS, split_file=str(path))


def test_a_split_file_that_is_not_json(tmp_path):
    path = tmp_path / "split.json"
    path.write_text("training: s001")
    with pytest.raises(ValueError, match=r"split_file '.*split\.json' is not JSON"):
        split_datalist(SUBJECTS, split_file=str(path))


def test_a_split_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"split_file: no file '.*none\.json'"):
        split_datalist(SUBJECTS, split_file=str(tmp_path / "none.json"))


def test_a_patient_in_both_folders():
    with pytest.raises(ValueError, match=r"both sides of the split: p000, p001"):
        split_datalist(SUBJECTS[:10], SUBJECTS[:4])


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5])
def test_fractions_outside_their_range(val_fraction):
    with pytest.raises(ValueError, match=rf"val_fraction must lie in \(0, 1\), got {val_fraction}"):
        split_datalist(SUBJECTS, val_fraction=val_fraction)


def test_one_patient_cannot_be_split():
    with pytest.raises(ValueError, match="at least two patients"):
        split_datalist(SUBJECTS[:2])


def test_a_failed_split_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="both sides"):
        split_datalist(SUBJECTS[:2], SUBJECTS[:2], output_file=str(tmp_path / "split.json"))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="output_dir: cannot write in"):
        split_datalist(SUBJECTS, output_file=str(tmp_path / "file" / "split.json"))
