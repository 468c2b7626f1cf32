"""DICOM series: matched by description, stacked by position, refused when they make no volume."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from bundle_runner import CONFIGS
from monai.bundle import ConfigParser
from pydicom.uid import generate_uid
from synthetic_study import Study, new_study, write_series

from scripts.data.datalists import find_studies
from scripts.dicom import DicomSeries, match_series, read_series, sorted_images
from scripts.transforms.dicom import LoadDicomSubjectd

SEQUENCES = ["t1", "flair", "t1ce"]
SHAPE = (9, 7, 5)
AFFINE = np.array([[1.5, 0, 0, -20], [0, 2, 0, -30], [0, 0, 3, 10], [0, 0, 0, 1.0]])
"""DICOM's: columns run to the left, rows to the back, slices to the head."""
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def default_rules() -> dict[str, dict[str, list[str]]]:
    parser = ConfigParser(
        ConfigParser.load_config_files([str(CONFIGS / f"{n}.json") for n in ("inference", "data/dicom")])
    )
    return {key: parser.get_parsed_content(key) for key in ("series_patterns", "series_exclusions")}


def loader(sequences: Sequence[str] = SEQUENCES) -> LoadDicomSubjectd:
    return LoadDicomSubjectd(sequences, **default_rules())


def voxels(seed: int, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape)


def write(folder: Path, study: Study | None = None, **changes) -> Path:
    """A subject with the three sequences; ``changes`` are arguments of one sequence's ``write_series``."""
    study = study or new_study()
    for number, (name, text) in enumerate({"t1": "t1_tra", "flair": "FLAIR axial", "t1ce": "t1_tra_KM"}.items()):
        settings = {"voxels": voxels(number), "affine": AFFINE, "description": text, **changes.get(name, {})}
        write_series(folder / name, study=study, number=number, **settings)
    return folder


def load(folder: Path) -> torch.Tensor:
    return loader()(next(i for i in find_studies(str(folder.parent)) if i["subject"] == folder.name))["image"]


def oblique() -> np.ndarray:
    """A turned head with slices counted from head to foot."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 2, -3])
    affine[:3, 3] = [12.5, -40.25, 70]
    return affine


@pytest.mark.parametrize("affine", [AFFINE, oblique()], ids=["axial", "oblique, head to foot"])
def test_every_voxel_has_its_value_and_its_place(affine: np.ndarray, tmp_path: Path):
    """Against the arrays and affines that were written."""
    folder = write(tmp_path / "S", **{name: {"affine": affine} for name in SEQUENCES})
    image = load(folder)
    assert image.shape == (3, *SHAPE) and image.dtype == torch.float32
    to_file = np.linalg.inv(RAS @ affine) @ image.affine.numpy()
    indices = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 3)
    there = indices @ to_file[:3, :3].T + to_file[:3, 3]
    np.testing.assert_allclose(there, np.round(there), atol=1e-4)
    x, y, z = np.round(there).astype(int).T
    for channel in range(3):
        values = image[channel].numpy()[tuple(indices.T)]
        np.testing.assert_array_equal(values, voxels(channel)[x, y, z])


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.1, -3.0), (2.5, 0.0)])
def test_rescale_slope_and_intercept_are_applied(slope: float, intercept: float, tmp_path: Path):
    files = write_series(tmp_path / "t1", voxels(0), AFFINE, "t1", new_study(), slope=slope, intercept=intercept)
    stored = np.stack([pydicom.dcmread(path).pixel_array.T for path in files], axis=-1)
    image = loader(["t1"])({"subject": "S", "image": [str(path) for path in files]})["image"]
    np.testing.assert_allclose(image[0], stored * slope + intercept, rtol=1e-6)


def test_a_subject_may_hold_all_series_in_one_folder_and_other_files(tmp_path: Path):
    expected = load(write(tmp_path / "by_series" / "S"))
    folder = tmp_path / "mixed" / "S"
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "by_series").rglob("*.dcm"))):
        path.rename(folder / f"{number}")
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty").touch()
    report = pydicom.dcmread(folder / "0", stop_before_pixels=True)
    del report.Rows, report.Columns
    report.SeriesInstanceUID, report.Modality = generate_uid(), "SR"
    report.save_as(folder / "report")
    assert torch.equal(load(folder).as_tensor(), expected.as_tensor())


DESCRIPTIONS: dict[str | None, list[str]] = {
    "t1": [
        "t1_mprage_sag_p2_iso",
        "AX T1 FSE",
        "T1w 3D TFE",
        "T1 pre contrast",
        "T1 without contrast",
        "t1 non-contrast",
    ],
    "t1ce": ["t1_mprage_sag_p2_iso_KM", "AX T1 POST GAD", "T1ce", "t1c", "T1 +C", "Gd T1 tra", "T1W TSE CE", "C+ T1"],
    "flair": ["t2_tirm_tra_dark-fluid", "AX FLAIR T2", "3D_FLAIR"],
    "t2": ["t2_tse_tra", "AX T2 FSE"],
    None: ["T1 FLAIR", "localizer", "ep2d_diff_tra_ADC", "t2*_gre", ""],
}


@pytest.mark.parametrize(("sequence", "text"), [(s, text) for s, texts in DESCRIPTIONS.items() for text in texts])
def test_the_rules_that_are_shipped(sequence: str | None, text: str):
    names = [name for name in DESCRIPTIONS if name]
    series = [DicomSeries("1", "2", text, "MR")]
    found = []
    for name in names:
        try:
            found += [name for _ in match_series(series, [name], *default_rules().values(), ["MR"], "S")]
        except ValueError as error:
            assert f"no series for sequence '{name}'" in str(error)
    assert found == ([sequence] if sequence else [])


def test_other_modalities_are_no_sequence():
    rules = default_rules().values()
    series = [DicomSeries("1", "2", "Anomaly map of t1", "SEG"), DicomSeries("3", "2", "t1", "MR")]
    assert match_series(series, ["t1"], *rules, ["MR"], "S") == series[1:]


@pytest.mark.parametrize(
    ("descriptions", "sequences", "message"),
    [
        (["t1", "t1_KM"], SEQUENCES, r"P1: no series for sequence 'flair'; there are 't1' \(MR, 0 images\), 't1_KM'"),
        ([], ["t1"], r"there are no DICOM images.*modality MR, description with t1.*series_patterns#t1"),
        (["t1 a", "t1 b"], ["t1"], r"2 series match sequence 't1': 't1 a' \(MR, 0 images\), 't1 b'"),
        (["both"], ["one", "two"], r"series 'both' .* matches the sequences one, two"),
    ],
)
def test_series_that_cannot_be_told_apart(descriptions: list[str], sequences: list[str], message: str):
    series = [DicomSeries(text, "study", text, "MR") for text in descriptions]
    rules = default_rules()
    patterns = rules["series_patterns"] | {"one": ["both"], "two": ["both"]}
    with pytest.raises(ValueError, match=message):
        match_series(series, sequences, patterns, rules["series_exclusions"], ["MR"], "P1")


def test_series_of_two_studies():
    series = [DicomSeries("1", "study a", "t1", "MR"), DicomSeries("2", "study b", "flair", "MR")]
    with pytest.raises(ValueError, match="belong to several studies"):
        match_series(series, ["t1", "flair"], *default_rules().values(), ["MR"], "P1")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [({}, "series_patterns: 't1' must be a list"), ({"t1": "t1"}, "got 't1'"), ({"t1": ["("]}, "no regular expr")],
)
def test_patterns_that_are_none(patterns: dict, message: str):
    with pytest.raises(ValueError, match=message):
        match_series([], ["t1"], patterns, {}, ["MR"], "P1")


def shifted(*by: float) -> np.ndarray:
    return AFFINE + np.pad(np.array(by, dtype=float)[:, None], ((0, 1), (3, 0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxels": voxels(1, (9, 6, 5))}, r"size 9 x 6 x 5, wanted 9 x 7 x 5"),
        ({"voxels": voxels(1, (9, 7, 4))}, r"size 9 x 7 x 4, wanted 9 x 7 x 5"),
        ({"affine": AFFINE * [1, 1.1, 1, 1]}, r"spacing 1.5 x 2.2 x 3, wanted 1.5 x 2 x 3"),
        ({"affine": AFFINE * [1, 1, 1.5, 1]}, r"spacing 1.5 x 2 x 4.5, wanted 1.5 x 2 x 3"),
        ({"affine": shifted(0, 0, 0.5)}, r"origin -20 x -30 x 10.5, wanted -20 x -30 x 10"),
        ({"affine": oblique()}, "orientation"),
    ],
    ids=["rows", "slices", "spacing", "slice distance", "origin", "orientation"],
)
def test_a_series_of_other_geometry(change: dict, message: str, tmp_path: Path):
    folder = write(tmp_path / "P1", flair=change)
    with pytest.raises(ValueError, match=f"P1: series 'FLAIR axial' has another geometry than 't1_tra': .*{message}"):
        load(folder)


def test_another_frame_of_reference_is_told(tmp_path: Path, caplog):
    folder = write(tmp_path / "P1")
    with caplog.at_level("WARNING"):
        load(folder)
    assert "frame of reference" not in caplog.text
    for path in (folder / "flair").iterdir():
        edit(path, lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"))
    with caplog.at_level("WARNING"):
        load(folder)
    assert "series 'FLAIR axial' has another frame of reference than 't1_tra'" in caplog.text


def remove_slice(files: list[Path]) -> str:
    files[2].unlink()
    return r"slices missing or unevenly spaced, .* are 6 mm apart, others 3 mm"


def move_slice(files: list[Path]) -> str:
    edit(files[4], lambda d: setattr(d, "ImagePositionPatient", [-20, -30, 22.5]))
    return r"are 3.5 mm apart, others 3 mm"


def shift_slice(files: list[Path]) -> str:
    edit(files[4], lambda d: setattr(d, "ImagePositionPatient", [-19, -30, 22]))
    return r"are shifted sideways by 1 mm"


def double_slice(files: list[Path]) -> str:
    edit(files[3], lambda d: setattr(d, "SOPInstanceUID", generate_uid()), files[3].with_name("again.dcm"))
    return r"lie at the same place"


def other_size(files: list[Path]) -> str:
    edit(files[1], lambda d: setattr(d, "Rows", 6))
    return r"has size 6 x 9, .* has 7 x 9"


def no_position(files: list[Path]) -> str:
    edit(files[0], lambda d: delattr(d, "ImagePositionPatient"))
    return rf"{files[0].name} has no position in its header"


def many_frames(files: list[Path]) -> str:
    edit(files[0], lambda d: setattr(d, "NumberOfFrames", 2))
    return r"has 2 frames, wanted a file a slice"


def cut_short(files: list[Path]) -> str:
    files[-1].write_bytes(files[-1].read_bytes()[:-40])
    return rf"series 'FLAIR axial': {files[-1].name} lacks 40 bytes of its pixels"


def no_series_uid(files: list[Path]) -> str:
    edit(files[0], lambda d: delattr(d, "SeriesInstanceUID"))
    return rf"{files[0].name}: broken DICOM header"


def edit(path: Path, change: Callable[[pydicom.Dataset], None], target: Path | None = None) -> None:
    image = pydicom.dcmread(path)
    change(image)
    image.save_as(target or path)


DAMAGES = [
    remove_slice,
    move_slice,
    shift_slice,
    double_slice,
    other_size,
    no_position,
    many_frames,
    cut_short,
    no_series_uid,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_images_that_make_no_volume(damage: Callable[[list[Path]], str], tmp_path: Path):
    folder = write(tmp_path / "P1")
    files = [image.path for image in sorted_images(read_series((folder / "flair").iterdir())[0], "P1")]
    with pytest.raises(ValueError, match=damage(files)) as raised:
        load(folder)
    assert re.search(r"FLAIR axial|\.dcm: broken", str(raised.value))


def test_an_empty_series_is_named(tmp_path: Path):
    folder = write(tmp_path / "P1", flair={"voxels": np.full(SHAPE, 7)})
    with pytest.raises(ValueError, match="series 'FLAIR axial': empty or constant, every voxel is 7"):
        load(folder)


def test_studies_of_a_folder(tmp_path: Path):
    write(tmp_path / "B")
    write(tmp_path / "A")
    (tmp_path / "no_files").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x").touch()
    (tmp_path / "DICOMDIR").touch()
    items = find_studies(str(tmp_path))
    assert [item["subject"] for item in items] == ["A", "B"] and [len(item["image"]) for item in items] == [15, 15]
    with pytest.raises(FileNotFoundError, match="no subjects in"):
        find_studies(str(tmp_path / "no_files"))


def test_the_overlay_changes_nothing_but_the_reading():
    overlay = json.loads((CONFIGS / "data/dicom.json").read_text())
    base = json.loads((CONFIGS / "inference.json").read_text())
    assert set(overlay) & set(base) == {"datalist", "load"}
    assert set(overlay["series_patterns"]) == set(base["sequence_suffixes"])
