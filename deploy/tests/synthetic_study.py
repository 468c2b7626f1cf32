"""A DICOM study written from NIfTI volumes: classic MR images, a file a slice, a folder a series.

As a command: ``python deploy/tests/synthetic_study.py bundle/sample/openms_patient07 output/dicom/openms_patient07``
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

DESCRIPTIONS = {"t1": "t1_tra", "flair": "t2_tirm_tra_dark-fluid", "t1ce": "t1_tra_KM"}
LPS = nib.orientations.axcodes2ornt("LPS")
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Study:
    """What all series of a study share."""

    uid: str
    frame_of_reference: str
    patient: str = "SYNTHETIC"


def new_study(patient: str = "SYNTHETIC") -> Study:
    """A study with UIDs of its own."""
    return Study(generate_uid(), generate_uid(), patient)


def axial(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    """Voxels with axes to the left, the back and the head, as scanners store axial slices, and DICOM's affine."""
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), LPS)
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), RAS_TO_LPS @ turned.affine


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    description: str,
    study: Study,
    number: int = 1,
    slope: float = 0.5,
    intercept: float = -20.0,
) -> list[Path]:
    """Write one series; returns its files by slice.

    The stored pixels are such that rescaling by ``slope`` and ``intercept`` gives ``voxels`` back, if these are whole.

    Args:
        folder: where the files go; their names do not follow the slices.
        voxels: (columns, rows, slices), grey values.
        affine: from (column, row, slice) to DICOM's patient space in mm, (4, 4).
        description: SeriesDescription.
        study: UIDs of the study.
        number: SeriesNumber.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series_uid, count = generate_uid(), voxels.shape[2]
    stored = np.round((voxels - intercept) / slope).astype(np.uint16)
    paths = []
    for index in range(count):
        image = _header(study, series_uid, description, number, index)
        _place(image, affine, index)
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = slope, intercept, "US"
        image.Columns, image.Rows = voxels.shape[:2]
        image.PixelData = np.ascontiguousarray(stored[..., index].T).tobytes()
        # Neither the order of names nor that of instance numbers is the order in space.
        paths.append(folder / f"IM{(7 * index + 3) % 1000:04d}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _header(study: Study, series_uid: str, description: str, number: int, index: int) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
    image.SpecificCharacterSet = "ISO_IR 192"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = study.patient, study.patient, "", "O"
    image.StudyInstanceUID, image.StudyID, image.AccessionNumber = study.uid, "1", ""
    image.StudyDate, image.StudyTime, image.ReferringPhysicianName = "20240101", "120000", ""
    image.SeriesInstanceUID, image.SeriesNumber, image.SeriesDescription = series_uid, number, description
    image.Modality, image.Manufacturer, image.PatientPosition = "MR", "synthetic", "HFS"
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = study.frame_of_reference, ""
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "RM", "NONE", "", "3D"
    image.EchoTime, image.EchoTrainLength = "", ""
    image.AcquisitionNumber, image.InstanceNumber = 1, 1000 - index
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    return image


def _place(image: Dataset, affine: np.ndarray, index: int) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    image.ImageOrientationPatient = [_decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    image.ImagePositionPatient = [_decimal(v) for v in (affine @ [0, 0, index, 1])[:3]]
    image.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    image.SliceThickness = _decimal(spacing[2])


def _decimal(value: float) -> str:
    """At most 16 characters, as DICOM's decimal strings are."""
    return f"{value:.9g}"


def write_study(
    nifti_folder: Path,
    folder: Path,
    descriptions: Mapping[str, str] | None = None,
    slices: Sequence[int] | None = None,
    study: Study | None = None,
) -> dict[str, list[Path]]:
    """Write the sequences of a subject in BraTS layout as a study; returns each sequence's files by slice.

    Args:
        nifti_folder: the subject, ``S/S_t1.nii.gz`` and so on.
        folder: the study; each series gets a sub-folder.
        descriptions: for each sequence the SeriesDescription.
        slices: ``[first, last + 1]`` to write; all by default.
        study: UIDs, to add to a study.
    """
    study, files = study or new_study(), {}
    for number, (sequence, description) in enumerate((descriptions or DESCRIPTIONS).items(), 1):
        image = nib.Nifti1Image.from_filename(nifti_folder / f"{nifti_folder.name}_{sequence}.nii.gz")
        voxels, affine = axial(image)
        first, last = slices or (0, voxels.shape[2])
        affine = affine @ nib.affines.from_matvec(np.eye(3), [0, 0, first])
        target = folder / f"{number:02d}_{sequence}"
        files[sequence] = write_series(target, voxels[..., first:last], affine, description, study, number)
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a subject in BraTS layout as a DICOM study.")
    parser.add_argument("nifti_folder", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_study(arguments.nifti_folder.resolve(), arguments.folder)
