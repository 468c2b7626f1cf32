"""Masks of brains: made by a network, kept in files, and what tells a head from a stripped brain.

Volumes are (W, H, D) arrays with slices along the last axis, unless said otherwise.
"""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import importlib.util
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from ..files import atomic_path
from .loading import AFFINE_TOLERANCE

PACKAGE, REQUIREMENTS = "deepbet", "requirements-brain.txt"

AIR = 0.1
"""Share of the volume's 98th percentile that a voxel of the head exceeds; air and its noise lie below."""

DEPTHS_MM = (2, 4, 6, 8, 10, 12, 15, 20, 30)
"""Borders of the layers under the surface that :func:`skull_contrast` compares."""

SKULL_CONTRAST = 1.5
"""Heads lie above, stripped brains below: see :func:`skull_contrast`. Of 49 heads with glioma, T1-weighted, the lowest
had 1.64; stripped, the highest of them had 1.35 and all others at most 1.09."""

_ONE_AT_A_TIME = threading.Lock()
"""A volume takes a gigabyte, and subjects are read by several threads."""


def check_installed() -> None:
    """Raise when the package that extracts brains is missing.

    Raises:
        ImportError: naming the package and the file that requires it.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ImportError(
            f"brain_extraction: {PACKAGE!r} needs the package {PACKAGE}, which is not installed: "
            f"pip install -r {REQUIREMENTS}. For data that are stripped already set brain_extraction to null."
        )


@functools.lru_cache(maxsize=1)
def _networks(gpu: bool) -> Any:
    check_installed()
    from deepbet import BrainExtraction

    return BrainExtraction(no_gpu=not gpu)


def run_deepbet(volume: np.ndarray, affine: np.ndarray, gpu: bool = False) -> np.ndarray:
    """The brain as deepbet finds it: its largest component, holes filled, no margin.

    Args:
        volume: a T1-weighted head, (W, H, D) in any orientation.
        affine: to RAS millimetres, (4, 4).
        gpu: run there, where there is one.

    Returns:
        boolean, (W, H, D); empty when nothing was found.

    Raises:
        ImportError: when the package is missing.
    """
    with _ONE_AT_A_TIME:
        # A copy, since a run leaves its bounding box behind.
        extraction = copy.copy(_networks(gpu))
        try:
            _, mask, _ = extraction.run(nib.Nifti1Image(volume.astype(np.float32), affine))
        except (AssertionError, ValueError):  # how it says that there is no brain
            return np.zeros(volume.shape, dtype=bool)
    return np.asarray(mask.dataobj) > 0


def dilate_in_plane(mask: np.ndarray, margin: float) -> np.ndarray:
    """Every pixel whose distance to the mask in its slice is at most ``margin`` pixels."""
    dilated = mask.copy()
    for index in np.flatnonzero(mask.any(axis=(0, 1))):
        dilated[..., index] = distance_transform_edt(~mask[..., index]) <= margin
    return dilated


def head_of(volume: np.ndarray) -> np.ndarray:
    """Where the head is: above the air's noise (:data:`AIR`), holes of each slice filled; boolean."""
    positive = volume[volume > 0]
    head = volume > (AIR * np.percentile(positive, 98) if positive.size else 0)
    for index in np.flatnonzero(head.any(axis=(0, 1))):
        head[..., index] = binary_fill_holes(head[..., index])
    return head


def skull_contrast(volume: np.ndarray, spacing: float) -> float:
    """How much darker than what lies above it a layer under the surface is: at least 1.

    From the surface of a head inwards come bright fat, dark bone, bright brain: the median intensity of the layers
    between :data:`DEPTHS_MM` falls before it rises. From the surface of a stripped brain it only rises, from fluid
    over cortex to white matter. Told by the largest ratio of a layer's median to that of a deeper one. Meant for
    T1-weighted images and FLAIR; on T2 the fluid of a stripped brain is bright.

    Args:
        volume: one sequence.
        spacing: width of a pixel in the slice, mm.

    Returns:
        the ratio; 1 when there is no slice with all layers.
    """
    head = head_of(volume)
    values: list[list[np.ndarray]] = [[] for _ in DEPTHS_MM]
    for index in np.flatnonzero(head.any(axis=(0, 1))):
        # What lies beyond the image's border counts as outside.
        depth = distance_transform_edt(np.pad(head[..., index], 1))[1:-1, 1:-1] * spacing
        if depth.max() <= DEPTHS_MM[-1]:
            continue
        for layer, low, high in zip(values, (0, *DEPTHS_MM), DEPTHS_MM, strict=False):
            layer.append(volume[..., index][(depth > low) & (depth <= high)])
    if not values[0]:
        return 1.0
    profile = np.array([np.median(np.concatenate(layer)) if sum(map(len, layer)) else np.nan for layer in values])
    profile = np.maximum(profile[np.isfinite(profile)], 1e-6 * np.nanmax(profile))
    return float((np.maximum.accumulate(profile) / profile).max())


def digest(volume: np.ndarray) -> str:
    """16 hexadecimal digits that tell a volume from another."""
    return hashlib.sha256(np.ascontiguousarray(volume, dtype=np.float32).tobytes()).hexdigest()[:16]


def write_mask(path: Path, mask: np.ndarray, affine: np.ndarray, origin: str) -> None:
    """Write a mask as NIfTI, uint8, atomically; ``origin`` says in its header what it was made from."""
    image = nib.Nifti1Image(mask.astype(np.uint8), affine)
    image.header["descrip"] = origin
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))


def read_mask(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> tuple[np.ndarray, str]:
    """A mask, boolean, and its origin, empty where the file says none.

    Raises:
        ValueError: naming the file: unreadable, or not in the space of the image.
    """
    try:
        image: Any = nib.load(path)
        mask = np.asarray(image.dataobj) > 0
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a brain mask ({type(error).__name__}: {error}).") from None
    if mask.shape != tuple(shape):
        raise ValueError(f"{path}: a brain mask of shape {mask.shape}, the image has {tuple(shape)}.")
    difference = float(np.abs(image.affine - affine).max())
    if difference > AFFINE_TOLERANCE:
        raise ValueError(
            f"{path}: the affine of this brain mask differs from that of the image by {difference:g}, "
            f"at most {AFFINE_TOLERANCE:g} is allowed."
        )
    header = image.header
    return mask, bytes(header["descrip"]).rstrip(b"\0").decode("ascii", "replace") if "descrip" in header else ""
