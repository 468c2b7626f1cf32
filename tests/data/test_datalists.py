from __future__ import annotations

import json
from pathlib import Path

import pytest
from volume_files import CONFIGS

from scripts.data.datalists import find_images, find_prepared_slices, find_volumes

SUFFIXES = json.loads((CONFIGS / "inference.json").read_text())["sequence_suffixes"]
ALL = ["t1", "t1ce", "t2", "flair"]


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def volumes(folder: Path, sequences=ALL, **kwargs) -> list[dict]:
    return find_volumes(str(folder), sequences, SUFFIXES, **kwargs)


def names(item: dict) -> list[str]:
    return [Path(path).name for path in item["image"]]


class TestSubjectFolders:
    def test_brats_2020(self, tmp_path):
        subject = "BraTS20_Training_001"
        endings = ("flair", "seg", "t1", "t1ce", "t2")
        touch(tmp_path / subject, *(f"{subject}_{e}.nii" for e in endings))
        (item,) = volumes(tmp_path)
        folder = tmp_path / subject
        assert item == {
            "subject": subject,
            "patient": subject,
            "image": [str(folder / f"{subject}_{e}.nii") for e in ALL],
            "label": str(folder / f"{subject}_seg.nii"),
        }

    def test_brats_2021_to_2023(self, tmp_path):
        subject = "BraTS-GLI-00005-000"
        touch(tmp_path / subject, *(f"{subject}-{e}.nii.gz" for e in ("seg", "t1c", "t1n", "t2f", "t2w")))
        (item,) = volumes(tmp_path)
        assert names(item) == [f"{subject}-{e}.nii.gz" for e in ("t1n", "t1c", "t2w", "t2f")]
        assert Path(item["label"]).name == f"{subject}-seg.nii.gz"

    @pytest.mark.parametrize("extension", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd", "NII.GZ"])
    def test_extensions(self, tmp_path, extension):
        touch(tmp_path / "S", f"S_t1.{extension}", f"S_flair.{extension}", f"S_seg.{extension}", "S_t1.txt", "S_t1.raw")
        (item,) = volumes(tmp_path, ["flair", "t1"])
        assert names(item) == [f"S_flair.{extension}", f"S_t1.{extension}"]
        assert item["label"].endswith(f"S_seg.{extension}")

    @pytest.mark.parametrize("sequences", [ALL, ALL[::-1], ["flair", "t1"], ["t1ce"]])
    def test_channels_follow_the_configured_order(self, tmp_path, sequences):
        touch(tmp_path / "S", *(f"S_{e}.nii.gz" for e in ALL))
        assert names(volumes(tmp_path, sequences)[0]) == [f"S_{s}.nii.gz" for s in sequences]

    def test_names_count_whole_and_in_any_case(self, tmp_path):
        touch(tmp_path / "S", "S_T1.nii.gz", "S_t1ce.nii.gz", "S_xt1.nii.gz", "S_t1_old.nii.gz")
        assert names(volumes(tmp_path, ["t1", "t1ce"])[0]) == ["S_T1.nii.gz", "S_t1ce.nii.gz"]

    def test_the_contrast_image_alone_is_no_t1(self, tmp_path):
        touch(tmp_path / "S", "S_t1ce.nii.gz")
        assert "no file for sequence 't1'" in volumes(tmp_path, ["t1"])[0]["problem"]

    def test_no_label(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz")
        assert "label" not in volumes(tmp_path, ["t1"])[0]

    def test_label_suffixes(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz", "S_seg.nii.gz", "S_lesion.nii.gz")
        (item,) = volumes(tmp_path, ["t1"], label_suffixes=["lesion", "mask"])
        assert item["label"].endswith("S_lesion.nii.gz")

    def test_a_missing_sequence_is_that_subjects_problem_alone(self, tmp_path):
        for subject in ("A", "B", "C"):
            touch(tmp_path / subject, f"{subject}_t1.nii.gz", f"{subject}_flair.nii.gz")
        (tmp_path / "B" / "B_flair.nii.gz").unlink()
        a, b, c = volumes(tmp_path, ["t1", "flair"])
        assert b["subject"] == "B"
        assert "image" not in b
        for part in (str(tmp_path / "B"), "'flair'", "*_flair", "*_t2f"):
            assert part in b["problem"]
        for item in (a, c):
            assert "problem" not in item
            assert len(item["image"]) == 2

    def test_two_files_for_a_sequence(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz", "S-t1n.nii.gz")
        problem = volumes(tmp_path, ["t1"])[0]["problem"]
        for part in (str(tmp_path / "S"), "'t1'", "several", "S_t1.nii.gz", "S-t1n.nii.gz"):
            assert part in problem

    def test_two_labels(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz", "S_seg.nii.gz", "S-seg.nii")
        problem = volumes(tmp_path, ["t1"])[0]["problem"]
        for part in (str(tmp_path / "S"), "several labels", "S_seg.nii.gz", "S-seg.nii"):
            assert part in problem

    def test_subjects_are_sorted_and_other_folders_left_out(self, tmp_path):
        for subject in ("b", "a", "c"):
            touch(tmp_path / subject, f"{subject}_t1.nii.gz")
        touch(tmp_path / "notes", "readme.txt")
        touch(tmp_path / ".cache", "x_t1.nii.gz")
        assert [item["subject"] for item in volumes(tmp_path, ["t1"])] == ["a", "b", "c"]

    def test_hidden_leftovers_are_no_files(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz", "._S_t1.nii.gz", "._S_seg.nii.gz")
        (item,) = volumes(tmp_path, ["t1"])
        assert names(item) == ["S_t1.nii.gz"]
        assert "label" not in item

    def test_time_points_of_a_patient_stay_together(self, tmp_path):
        for subject in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000", "BraTS20_Training_001"):
            touch(tmp_path / subject, f"{subject}_t1.nii.gz")
        items = volumes(tmp_path, ["t1"])
        assert [i["patient"] for i in items] == ["BraTS-GLI-00005"] * 2 + ["BraTS-GLI-00006", "BraTS20_Training_001"]
        (own, *_) = volumes(tmp_path, ["t1"], patient_pattern=r"^(BraTS).*")
        assert own["patient"] == "BraTS"


class TestFilesWithAllSequences:
    def test_with_and_without_label(self, tmp_path):
        touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "ab.nii.gz", "c_1.nrrd", "c_1-seg.nrrd")
        items = volumes(tmp_path)
        assert items == [
            {
                "subject": "a",
                "patient": "a",
                "image": str(tmp_path / "a.nii.gz"),
                "label": str(tmp_path / "a_seg.nii.gz"),
            },
            {"subject": "ab", "patient": "ab", "image": str(tmp_path / "ab.nii.gz")},
            {
                "subject": "c_1",
                "patient": "c_1",
                "image": str(tmp_path / "c_1.nrrd"),
                "label": str(tmp_path / "c_1-seg.nrrd"),
            },
        ]

    def test_a_label_goes_to_its_own_image_only(self, tmp_path):
        touch(tmp_path, "p.nii.gz", "p_2.nii.gz", "p_2_seg.nii.gz")
        p, p2 = volumes(tmp_path)
        assert "label" not in p
        assert p2["label"].endswith("p_2_seg.nii.gz")

    def test_label_suffixes_of_different_length(self, tmp_path):
        touch(tmp_path, "p.nii.gz", "p_mask.nii.gz", "q.nii.gz", "q_gt.nii.gz")
        labels = [i["label"] for i in volumes(tmp_path, label_suffixes=["gt", "mask"])]
        assert [Path(p).name for p in labels] == ["p_mask.nii.gz", "q_gt.nii.gz"]

    def test_a_label_alone_is_no_subject(self, tmp_path):
        touch(tmp_path, "a_seg.nii.gz")
        with pytest.raises(FileNotFoundError):
            volumes(tmp_path)

    def test_beside_folders(self, tmp_path):
        touch(tmp_path / "S", "S_t1.nii.gz")
        touch(tmp_path, "A.nii.gz")
        assert [type(i["image"]) for i in volumes(tmp_path, ["t1"])] == [list, str]

    def test_names_that_are_taken_twice(self, tmp_path):
        touch(tmp_path, "a.nii.gz", "a.nii", "b.nii")
        first, second, b = volumes(tmp_path)
        for item in (first, second):
            assert "'a'" in item["problem"]
        assert "problem" not in b


@pytest.mark.parametrize(
    "find", [lambda folder: find_volumes(folder, ["t1"], SUFFIXES), find_images, find_prepared_slices]
)
class TestFoldersWithoutSubjects:
    def test_missing(self, tmp_path, find):
        with pytest.raises(FileNotFoundError, match=r"dataset_dir '.*nowhere' is not a folder"):
            find(str(tmp_path / "nowhere"))

    def test_a_file(self, tmp_path, find):
        touch(tmp_path, "file.nii.gz")
        with pytest.raises(FileNotFoundError, match="dataset_dir"):
            find(str(tmp_path / "file.nii.gz"))

    def test_empty(self, tmp_path, find):
        touch(tmp_path / "S", "notes.txt")
        with pytest.raises(FileNotFoundError) as caught:
            find(str(tmp_path))
        assert str(tmp_path) in str(caught.value)
        assert ".nii" in str(caught.value) or ".png" in str(caught.value)


class TestImages:
    def test_oct2017(self, tmp_path):
        touch(tmp_path / "train" / "NORMAL", "NORMAL-1384-2.jpeg", "NORMAL-1384-10.jpeg", "NORMAL-77-1.jpeg")
        touch(tmp_path / "train" / "CNV", "CNV-1384-1.jpeg")
        items = {i["subject"]: i for i in find_images(str(tmp_path))}
        assert items["NORMAL-1384-2"] == {
            "subject": "NORMAL-1384-2",
            "patient": "1384",
            "image": str(tmp_path / "train" / "NORMAL" / "NORMAL-1384-2.jpeg"),
            "healthy": True,
        }
        assert {n: (i["patient"], i["healthy"]) for n, i in items.items()} == {
            "CNV-1384-1": ("1384", False),
            "NORMAL-1384-10": ("1384", True),
            "NORMAL-1384-2": ("1384", True),
            "NORMAL-77-1": ("77", True),
        }

    def test_the_configured_pattern_is_the_default(self, tmp_path):
        touch(tmp_path, "DRUSEN-95633-1.jpeg")
        pattern = json.loads((CONFIGS / "data/oct2017.json").read_text())["patient_pattern"]
        assert find_images(str(tmp_path), patient_pattern=pattern) == find_images(str(tmp_path))

    def test_own_folders_and_names(self, tmp_path):
        touch(tmp_path / "ok", "p1_scan3.png", "other.PNG")
        touch(tmp_path / "ill", "p1_scan4.tif", "notes.txt", "._p1_scan4.tif")
        items = find_images(str(tmp_path), healthy_folders=["OK"], patient_pattern=r"(p\d+)_scan")
        assert [(i["subject"], i["patient"], i["healthy"]) for i in items] == [
            ("p1_scan4", "p1", False),
            ("other", "other", True),
            ("p1_scan3", "p1", True),
        ]

    def test_the_folder_itself_is_the_healthy_one(self, tmp_path, monkeypatch):
        touch(tmp_path / "normal", "a.png")
        assert find_images(str(tmp_path / "normal"))[0]["healthy"]
        monkeypatch.chdir(tmp_path / "normal")
        assert find_images(".")[0]["healthy"]

    def test_the_same_name_in_several_folders(self, tmp_path):
        touch(tmp_path / "normal", "1.png", "2.png")
        touch(tmp_path / "cnv", "1.png", "3.png", "3.jpg")
        subjects = {i["subject"]: Path(i["image"]).relative_to(tmp_path).as_posix() for i in find_images(str(tmp_path))}
        assert subjects == {
            "normal_1": "normal/1.png",
            "cnv_1": "cnv/1.png",
            "2": "normal/2.png",
            "cnv_3_png": "cnv/3.png",
            "cnv_3_jpg": "cnv/3.jpg",
        }


class TestPreparedSlices:
    def test_any_depth(self, tmp_path):
        touch(tmp_path, "000002.nii.gz", "000001.nii")
        touch(tmp_path / "deep" / "er", "000003.nii.gz", "x.png", "._000003.nii.gz")
        assert find_prepared_slices(str(tmp_path)) == [
            {"subject": "000001", "patient": "000001", "image": str(tmp_path / "000001.nii")},
            {"subject": "000002", "patient": "000002", "image": str(tmp_path / "000002.nii.gz")},
            {"subject": "000003", "patient": "000003", "image": str(tmp_path / "deep" / "er" / "000003.nii.gz")},
        ]

    def test_the_same_name_in_several_folders(self, tmp_path):
        touch(tmp_path / "training", "000001.nii.gz")
        touch(tmp_path / "validation", "000001.nii.gz")
        subjects = [i["subject"] for i in find_prepared_slices(str(tmp_path))]
        assert subjects == ["training_000001", "validation_000001"]
