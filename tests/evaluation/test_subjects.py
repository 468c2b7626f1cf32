"""A subject as evaluation sees it, against arrays that were written by hand."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from bundle_runner import write_prepared
from small_study import SHAPE, Study, make_body, processed_slices, scaled
from volume_files import LPS_AFFINE, ORIENTATIONS, configured

NAMES = [f"s{name}" for name in ORIENTATIONS]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """One subject in each orientation; the lowest slice and the highest are told apart by being thin or not."""
    bodies = [make_body(f"s{name}", i, (1, 4), name, thin=(0,)) for i, name in enumerate(ORIENTATIONS)]
    return Study(tmp_path_factory.mktemp("study"), bodies)


def read(study: Study, name: str, **settings):
    reader = study.get("reader", "unused", **settings)
    items = {item["subject"]: item for item in study.get("datalist", "unused", **settings)}
    return reader(items[name])


@pytest.mark.parametrize("name", NAMES)
def test_subject_in_any_orientation(study, name):
    body, subject = study.bodies[name], read(study, name)
    slices = processed_slices(body)
    assert subject.slices.tolist() == slices == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(subject.image, scaled(body)[..., slices], atol=1e-6)
    assert subject.image.dtype == np.float32
    np.testing.assert_array_equal(subject.label, body.label[..., slices])
    assert subject.label.dtype == bool
    assert subject.numbers.tolist() == [body.file_slice(k) for k in slices]
    np.testing.assert_array_equal(subject.foreground, (body.image > 0).any(axis=0)[..., slices])
    assert subject.diseased.tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(subject.heights, [0.2, 0.4, 0.6, 0.8, 1])
    assert (subject.name, subject.patient, subject.depth) == (name, name, 6)
    assert subject.lesion_voxels == body.label.sum()
    np.testing.assert_allclose(subject.space, LPS_AFFINE, atol=1e-5)


def test_lesions_of_slices_that_are_left_out_are_counted(study, tmp_path):
    other = Study(tmp_path, [make_body("s", 1, (0, 2), thin=(0,))])
    subject = read(other, "s")
    assert subject.label.sum() == other.bodies["s"].label[..., 1:].sum() < subject.lesion_voxels


def test_slice_range(study):
    assert read(study, "sAIR", slice_range=[2, 4]).slices.tolist() == [2, 3]
    assert read(study, "sAIR", slice_range=[2, 4]).numbers.tolist() == [3, 2]


def test_images_larger_than_the_canvas_keep_their_own_pixels(study):
    """Resampling to the networks' size is undone; the label is never resampled."""
    body, subject = study.bodies["sLPS"], read(study, "sLPS", image_size=16, min_foreground=0)
    assert subject.image.shape == (2, *SHAPE)
    np.testing.assert_array_equal(subject.label, body.label)
    assert subject.image.min() >= 0 and subject.image.max() <= 1


def test_a_single_slice_lies_at_height_0(tmp_path):
    study = Study(tmp_path, [make_body("s", 1, shape=(24, 20, 1))])
    assert read(study, "s").heights.tolist() == [0]


def test_no_label(study, tmp_path):
    other = Study(tmp_path, [make_body("s", 1)])
    (other.data / "s" / "s_seg.nii.gz").unlink()
    with pytest.raises(ValueError, match="subject s: no label to judge by"):
        read(other, "s")


def test_label_of_another_shape_is_named(tmp_path):
    study = Study(tmp_path, [make_body("s", 1)])
    path = study.data / "s" / "s_seg.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((24, 20, 5), np.uint8), LPS_AFFINE), path)
    with pytest.raises(ValueError, match=r"s_seg\.nii\.gz: shape \(24, 20, 5\)"):
        read(study, "s")


def test_prepared_slices(tmp_path):
    write_prepared(tmp_path / "data", 2, 2, label=True, size=32)
    settings = {"dataset_dir": str(tmp_path / "data"), "sequences": ["t1", "flair"], "image_size": 32, "device": "cpu"}
    # Configurations are joined in the order in which the command line names them.
    reader, items = (
        configured(key, "evaluation", "data/prepared_slices", **settings) for key in ("reader", "datalist")
    )
    for number, item in enumerate(items):
        stored = np.asarray(nib.load(item["image"]).dataobj)
        subject = reader(item)
        np.testing.assert_allclose(subject.image[..., 0], stored[:2].transpose(0, 2, 1), atol=1e-6)
        np.testing.assert_array_equal(subject.label[..., 0], stored[2].T > 0)
        assert subject.label.any() == (number == 1)
        assert subject.slices.tolist() == subject.numbers.tolist() == [0]
        assert (subject.depth, subject.heights.tolist()) == (1, [0])
