"""Whether a file's affine is one, and what it leaves open."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np

PERPENDICULAR = 1e-3
"""Largest cosine between two axes that are perpendicular but for rounding."""

AGREEMENT = 1e-3
"""Largest difference between two descriptions of one space: in mm at the volume's corners, or as a share of a size."""


def check_affine(affine: np.ndarray) -> None:
    """Refuse an affine that leads nowhere.

    Raises:
        ValueError: when it holds NaN or infinity, an axis without length, or axes in one plane.
    """
    axes = np.asarray(affine, dtype=np.float64)[:-1, :-1]
    if not np.isfinite(affine).all():
        raise ValueError("its affine holds NaN or infinity")
    lengths = np.linalg.norm(axes, axis=0)
    if not (lengths > 0).all() or abs(np.linalg.det(axes / np.where(lengths > 0, lengths, 1))) < 1e-6:
        raise ValueError(f"its affine has no inverse, the axes are {np.round(axes, 6).tolist()}")


def shear_note(affine: np.ndarray) -> str | None:
    """A sentence when the axes are not perpendicular, as after a gantry's tilt."""
    axes = np.asarray(affine, dtype=np.float64)[:-1, :-1]
    axes = axes / np.linalg.norm(axes, axis=0)
    cosine = float(np.abs(np.triu(axes.T @ axes, 1)).max())
    if cosine <= PERPENDICULAR:
        return None
    angle = np.degrees(np.arccos(min(cosine, 1.0)))
    return f"its axes meet at {angle:.2f} degrees, not 90: kept so, slices are the file's own"


def nifti_notes(header: nib.Nifti1Header) -> list[str]:
    """Sentences on what a NIfTI header says twice and differently, and which of it counts: nibabel's choice.

    The sform counts where its code is above 0, then the qform where its code is, then ``pixdim`` alone. ITK chooses
    otherwise in part: the qform where the sform's code is none of the scanner's (1), and sizes always by ``pixdim``.
    """
    shear = shear_note(header.get_best_affine())
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = _qform(header)
    used = "sform" if sform_code else "qform"
    if not sform_code and not qform_code:
        return ["it has neither sform nor qform: orientation and place are unknown, nibabel's guess by pixdim is used"]
    notes = [shear] if shear else []
    if sform is not None and qform is not None:
        distance = _largest_distance(sform, qform, header.get_data_shape())
        if not distance <= AGREEMENT:
            notes.append(f"sform and qform differ by up to {distance:.3g} mm: the sform is used, as by nibabel")
    sizes, pixdim = np.linalg.norm(header.get_best_affine()[:3, :3], axis=0), np.array(header["pixdim"][1:4], float)
    if not np.allclose(sizes, np.abs(pixdim), rtol=AGREEMENT, atol=1e-6):
        notes.append(f"pixdim says voxels of {_text(pixdim)} mm, the {used} {_text(sizes)}: the {used} is used")
    return notes


def _qform(header: nib.Nifti1Header) -> tuple[np.ndarray | None, int]:
    try:
        return header.get_qform(coded=True)
    except nib.spatialimages.HeaderDataError:
        return np.full((4, 4), np.nan), int(header["qform_code"])


def _largest_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """mm between the places that two affines give to a corner of the volume."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in (*shape, 1, 1, 1)[:3]))).reshape(3, -1)
    difference = np.asarray(first, float) - np.asarray(second, float)
    return float(np.linalg.norm(difference[:3] @ np.vstack([corners, np.ones(corners.shape[1])]), axis=0).max())


def _text(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
