"""The MONAI Deploy application on a synthetic DICOM study and on NIfTI, against the bundle's own inference.

The application runs in an environment of its own; see ``deploy/setup``. What is compared here comes from
``run inference`` in the environment of the tests, on the NIfTI files that the study was written from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from application_runner import DEPLOY, SETTINGS, error_of, frames_by_position, run_application
from bundle_runner import BUNDLE, ROOT, check_run, run_bundle
from pydicom.uid import ParametricMapStorage, SegmentationStorage
from synthetic_study import axial, new_study, write_series, write_study

SUBJECT = "openms_patient07"
SLICES = range(*SETTINGS["slice_range"])


@dataclass
class Results:
    """What came of the study, and what the bundle's inference on NIfTI says."""

    study: dict[str, list[pydicom.Dataset]]
    segmentation: Path
    map: Path
    scores: str
    expected: Path

    def volume(self, name: str) -> np.ndarray:
        """The expected volume as (columns, rows, slices) of the study."""
        return axial(nib.load(self.expected / SUBJECT / f"{SUBJECT}_{name}.nii.gz"))[0]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run inference`` on the sample."""
    folder = tmp_path_factory.mktemp("expected")
    check_run(run_bundle("inference", ["configs/inference.json"], output_dir=folder, progress=False, **SETTINGS))
    return folder


@pytest.fixture(scope="module")
def results(expected: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The application on the sample as DICOM study."""
    work = tmp_path_factory.mktemp("dicom")
    files = write_study(BUNDLE / "sample" / SUBJECT, work / "study")
    check_run(run_application(work / "study", work / "out"))
    written = {pydicom.dcmread(path).SOPClassUID: path for path in (work / "out").glob("*.dcm")}
    assert set(written) == {SegmentationStorage, ParametricMapStorage}
    study = {name: [pydicom.dcmread(path) for path in paths] for name, paths in files.items()}
    scores = (work / "out" / "scores.csv").read_text()
    return Results(study, written[SegmentationStorage], written[ParametricMapStorage], scores, expected)


def test_segmentation_frames_lie_on_their_slices(results: Results):
    """By pydicom: each frame at the position of the image it refers to, with that slice's voxels."""
    wanted = results.volume("segmentation")
    assert [k for k in range(wanted.shape[2]) if wanted[..., k].any()] == list(SLICES)
    sources = results.study["t1"]
    frames = frames_by_position(results.segmentation)
    # Slices without any anomaly have no frame.
    assert len(frames) == len(SLICES)
    for index in SLICES:
        plane, source = frames[tuple(float(v) for v in sources[index].ImagePositionPatient)]
        assert source == sources[index].SOPInstanceUID
        np.testing.assert_array_equal(plane, wanted[..., index].T)


def test_segmentation_as_highdicom_reads_it(results: Results):
    segmentation = hd.seg.segread(results.segmentation)
    uids = [image.SOPInstanceUID for image in results.study["t1"]]
    pixels = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, results.volume("segmentation").T)
    described = segmentation.get_segment_description(1)
    assert segmentation.number_of_segments == 1 and described.segment_label == "anomaly"
    assert described.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    # The whole volume, with its place in space.
    volume = segmentation.get_volume(combine_segments=True)
    assert volume.spatial_shape == (len(SLICES), 176, 144)


def test_parametric_map_holds_the_floats_of_the_anomaly_map(results: Results):
    wanted = results.volume("anomaly")
    image = hd.imread(results.map)
    written = pydicom.dcmread(results.map)
    assert written.pixel_array.dtype == np.float32
    window = written.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0]
    # By the standard, only this function may have windows narrower than 1.
    assert window.WindowWidth == pytest.approx(wanted.max(), rel=1e-4) and window.VOILUTFunction == "LINEAR_EXACT"
    frames = frames_by_position(results.map)
    assert len(frames) == wanted.shape[2]
    for index, source_image in enumerate(results.study["t1"]):
        plane, source = frames[tuple(float(v) for v in source_image.ImagePositionPatient)]
        assert source == source_image.SOPInstanceUID
        np.testing.assert_allclose(plane, wanted[..., index].T, atol=1e-5)
    assert wanted.max() > 0 and (wanted[..., : SLICES[0]] == 0).all()
    geometry = image.get_volume_geometry()
    assert geometry.spatial_shape == (16, 176, 144) and geometry.spacing == pytest.approx((1, 1, 1))


def test_results_belong_to_the_study_and_say_research_only(results: Results):
    source = results.study["t1"][0]
    for path in (results.segmentation, results.map):
        written = pydicom.dcmread(path)
        for key in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            assert getattr(written, key) == getattr(source, key), key
        assert written.SeriesInstanceUID not in {images[0].SeriesInstanceUID for images in results.study.values()}
        assert "research only" in written.SeriesDescription
    assert pydicom.dcmread(results.map).ContentQualification == "RESEARCH"
    theirs = (results.expected / "scores.csv").read_text()
    assert results.scores.count("\n") == len(SLICES) + 1
    assert results.scores.replace("study,", f"{SUBJECT},") == theirs


def test_nothing_found_gives_an_empty_segmentation(tmp_path: Path):
    """A healthy study is not an error: the SEG is there and holds nothing."""
    write_study(BUNDLE / "sample" / SUBJECT, tmp_path / "study", slices=(8, 10))
    settings = {"anomaly_threshold": 1e3, "slice_range": [0, 1]}
    check_run(run_application(tmp_path / "study", tmp_path / "out", packaged=True, **settings))
    written = [pydicom.dcmread(path) for path in (tmp_path / "out").glob("*.dcm")]
    segmentation = next(image for image in written if image.SOPClassUID == SegmentationStorage)
    assert len(written) == 2 and not segmentation.pixel_array.any()


def missing(study: Path) -> str:
    shutil.rmtree(study / "02_flair")
    return "study: no series for sequence 'flair'; there are 't1_tra' (MR, 16 images), 't1_tra_KM' (MR, 16 images)"


def other_geometry(study: Path) -> str:
    old = pydicom.dcmread(next((study / "02_flair").iterdir()))
    shutil.rmtree(study / "02_flair")
    voxels, affine = axial(nib.load(BUNDLE / "sample" / SUBJECT / f"{SUBJECT}_flair.nii.gz"))
    same = new_study()
    same = type(same)(old.StudyInstanceUID, old.FrameOfReferenceUID)
    write_series(study / "02_flair", voxels, affine + np.eye(4, k=3) * 2.5, old.SeriesDescription, same)
    return "study: series 't2_tirm_tra_dark-fluid' has another geometry than 't1_tra': origin"


def two_studies(study: Path) -> str:
    write_study(BUNDLE / "sample" / SUBJECT, study / "again", slices=(0, 2))
    return "study: 2 DICOM studies, wanted one"


def no_image(study: Path) -> str:
    shutil.rmtree(study)
    study.mkdir()
    (study / "letter.txt").write_text("no image")
    return "No study loaded from path"


@pytest.mark.parametrize("damage", [missing, other_geometry, two_studies, no_image], ids=lambda f: f.__name__)
def test_a_study_that_cannot_be_used_is_named(damage: Callable[[Path], str], tmp_path: Path):
    write_study(BUNDLE / "sample" / SUBJECT, tmp_path / "study")
    message = damage(tmp_path / "study")
    result = run_application(tmp_path / "study", tmp_path / "out")
    assert message in error_of(result)
    assert not list((tmp_path / "out").iterdir())


def test_nifti_in_nifti_out(expected: Path, tmp_path: Path):
    """What ``run inference`` writes; a broken subject beside a good one is named and stops nothing."""
    shutil.copytree(BUNDLE / "sample" / SUBJECT, tmp_path / "in" / SUBJECT)
    shutil.copytree(BUNDLE / "sample" / SUBJECT, tmp_path / "in" / "A_broken")
    (tmp_path / "in" / "A_broken" / f"{SUBJECT}_flair.nii.gz").unlink()
    error = error_of(run_application(tmp_path / "in", tmp_path / "out"))
    assert "subject A_broken failed" in error and "no file for sequence 'flair'" in error
    for name in ("anomaly", "segmentation", "reconstruction", "mask_density"):
        path = Path(SUBJECT) / f"{SUBJECT}_{name}.nii.gz"
        ours, theirs = nib.load(tmp_path / "out" / path), nib.load(expected / path)
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        np.testing.assert_allclose(ours.get_fdata(), theirs.get_fdata(), atol=0 if name == "segmentation" else 1e-5)
    assert (tmp_path / "out" / "scores.csv").read_text() == (expected / "scores.csv").read_text()


def test_settings_that_the_bundle_does_not_know_are_refused(tmp_path: Path):
    result = run_application(BUNDLE / "sample", tmp_path / "out", noise_levle=3)
    assert "app.yaml: bundle: settings: the bundle knows no noise_levle" in error_of(result)


def test_requirements_are_those_of_the_bundle():
    def pins(path: Path) -> dict[str, str]:
        return dict(line.split("==") for line in path.read_text().splitlines() if "==" in line and line[0] != "#")

    ours, dev = pins(DEPLOY / "requirements.txt"), pins(ROOT / "requirements.txt") | pins(ROOT / "requirements-dev.txt")
    assert {name: version for name, version in ours.items() if name in dev} == {n: dev[n] for n in ours if n in dev}
    assert {"monai", "torch", "itk", "pydicom", "highdicom"} <= set(ours) & set(dev)
