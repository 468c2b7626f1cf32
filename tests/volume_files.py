"""Tiny volumes in every orientation, made with plain index arithmetic, and the configured preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser

CONFIGS = Path(__file__).resolve().parent.parent / "bundle" / "configs"

SHAPE = (12, 10, 5)
LPS_AFFINE = np.array([[-1.5, 0, 0, 20], [0, -2, 0, 30], [0, 0, 3, -10], [0, 0, 0, 1.0]])
"""Of an array whose axes go left, posterior and superior, 1.5 x 2 x 3 mm; world coordinates are RAS."""

ORIENTATIONS = {
    "LPS": ((0, 1, 2), (False, False, False)),
    "RAS": ((0, 1, 2), (True, True, False)),
    "LAS": ((0, 1, 2), (False, True, False)),
    "LPI": ((0, 1, 2), (False, False, True)),
    "PSL": ((1, 2, 0), (False, False, False)),
    "AIR": ((1, 2, 0), (True, True, True)),
    "RIA": ((0, 2, 1), (True, True, True)),
    "SLP": ((2, 0, 1), (False, False, False)),
}
"""Name to (the LPS axis that each stored axis is, whether it runs the other way)."""


def stored_as(array: np.ndarray, affine: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An LPS array (W, H, D) and its affine as they are stored in another orientation: the same body in space."""
    return laid_out(array, affine, *ORIENTATIONS[name])


def laid_out(
    array: np.ndarray, affine: np.ndarray, order: Sequence[int], flips: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`stored_as` for any permutation of the axes, ``order``, of which those in ``flips`` run the other way."""
    stored, matrix = array.transpose(order), affine[:, [*order, 3]].copy()
    for axis in np.flatnonzero(flips):
        matrix[:, 3] += (stored.shape[axis] - 1) * matrix[:, axis]
        matrix[:, axis] *= -1
        stored = np.flip(stored, axis)
    return np.ascontiguousarray(stored), matrix


def oblique(affine: np.ndarray, degrees: float = 12.0) -> np.ndarray:
    """``affine`` with the patient's head turned about two axes."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turned = np.eye(4)
    turned[:3, :3] = turn
    return turned @ affine


def head(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Volume (W, H, D), float32: whole numbers from 1 to 1000 in a box, all different places, 0 around it."""
    volume = np.zeros(shape, dtype=np.float32)
    inside = volume[2:-2, 1:-2]
    inside[...] = np.random.default_rng(seed).integers(1, 1000, inside.shape)
    return volume


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray = LPS_AFFINE) -> str:
    """Write NIfTI; returns the path as text."""
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def configured(identifier: str, *names: str, **settings):
    """An object of the bundle's own configuration: ``inference.json`` and the overlays ``names``, with ``settings``."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("inference", *names)])
    for key, value in settings.items():
        parser[key] = value
    return parser.get_parsed_content(identifier)
