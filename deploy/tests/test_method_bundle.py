"""The MONAI Deploy application with another method's bundle, against ``run inference`` of that method."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from application_runner import frames_by_position, run_application
from bundle_runner import BUNDLE, check_run
from method_bundle import THRESHOLD, denoising_bundle
from pydicom.uid import ParametricMapStorage, SegmentationStorage
from synthetic_study import axial, write_study

SUBJECT = "openms_patient07"
SLICES = range(8, 11)


def test_a_denoising_autoencoder_runs_as_the_first_method_does(tmp_path: Path):
    made = denoising_bundle(tmp_path)
    slices = [SLICES.start, SLICES.stop]
    expected = made.infer(BUNDLE / "sample", tmp_path / "expected", slice_range=slices)
    files = write_study(BUNDLE / "sample" / SUBJECT, tmp_path / "study")["t1"]
    settings = {"anomaly_threshold": THRESHOLD, "slice_range": slices}
    check_run(run_application(tmp_path / "study", tmp_path / "out", bundle=made.folder, **settings))

    written = {pydicom.dcmread(path).SOPClassUID: path for path in (tmp_path / "out").glob("*.dcm")}
    segmentation, anomaly_map = (
        axial(nib.load(expected / SUBJECT / f"{SUBJECT}_{name}.nii.gz"))[0] for name in ("segmentation", "anomaly")
    )
    positions = [tuple(float(v) for v in pydicom.dcmread(path).ImagePositionPatient) for path in files]
    found = frames_by_position(written[SegmentationStorage])
    assert set(found) == {positions[index] for index in SLICES}
    for index in SLICES:
        np.testing.assert_array_equal(found[positions[index]][0], segmentation[..., index].T)
        assert 0 < segmentation[..., index].mean() < 0.5
    maps = frames_by_position(written[ParametricMapStorage])
    assert set(maps) == set(positions)
    for index, position in enumerate(positions):
        np.testing.assert_allclose(maps[position][0], anomaly_map[..., index].T, rtol=0, atol=1e-5)
    assert anomaly_map[..., SLICES.start].max() > THRESHOLD

    theirs = (expected / "scores.csv").read_text()
    assert theirs.startswith("subject,slice,map_mean,map_max\n") and theirs.count("\n") == len(SLICES) + 1
    assert (tmp_path / "out" / "scores.csv").read_text().replace("study,", f"{SUBJECT},") == theirs
