"""Whether the images of a series make a volume, and whether those of several series make the same one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from .headers import DicomImage, DicomSeries

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference between two images' spacing or position, in mm, or direction cosine."""

GREY = "MONOCHROME2"
"""Grey values of which the largest is white. Of MONOCHROME1, where it is black, readers make either."""

EVENNESS = 0.02
"""Largest deviation of a distance between slices from the others, as a share of it."""


def sorted_images(series: DicomSeries, place: str) -> list[DicomImage]:
    """The images of a series in the order in which they lie along their normal, the cross product of row and column.

    Args:
        series: one series.
        place: what errors call the subject, e.g. its folder.

    Raises:
        ValueError: when an image has several frames, other pixels than MONOCHROME2, fewer than its header claims, no
            place in space, or another size, spacing or orientation than the rest; when two lie at one place; when
            slices are missing, unevenly spaced or shifted sideways.
    """
    where = f"{place}: series {series.description!r}"
    for image in series.images:
        _check_image(image, series.images[0], where)
    normal = _normal(series.images[0])
    images = sorted(series.images, key=lambda image: float(np.dot(normal, _vector(image.position))))
    _check_steps(images, normal, where)
    return images


def check_same_geometry(volumes: Sequence[Sequence[DicomImage]], names: Sequence[str], place: str) -> None:
    """The volumes must have the size, spacing, orientation and origin of the first.

    Another frame of reference is warned of only: software that registers series often gives them one of their own.

    Args:
        volumes: of each series the sorted images.
        names: what errors call the series.
        place: what errors call the subject.

    Raises:
        ValueError: naming series, property, the value seen and the first series' value.
    """
    first = _geometry(volumes[0])
    for volume, name in zip(volumes, names, strict=True):
        if volume[0].frame and volumes[0][0].frame and volume[0].frame != volumes[0][0].frame:
            logger.warning(
                "%s: series %r has another frame of reference than %r: are they registered?", place, name, names[0]
            )
        for key, value in _geometry(volume).items():
            if not np.allclose(value, first[key], rtol=0, atol=TOLERANCE):
                raise ValueError(
                    f"{place}: series {name!r} has another geometry than {names[0]!r}: {key} {_text(value)}, "
                    f"wanted {_text(first[key])}. Resample it to {names[0]!r} first."
                )


def _check_image(image: DicomImage, first: DicomImage, where: str) -> None:
    if image.frames > 1:
        raise ValueError(f"{where}: {image.path.name} has {image.frames} frames, wanted a file a slice.")
    if image.missing_bytes:
        raise ValueError(f"{where}: {image.path.name} lacks {image.missing_bytes} bytes of its pixels, it is cut off.")
    if image.photometric and image.photometric != GREY:
        raise ValueError(f"{where}: {image.path.name} holds {image.photometric} pixels, wanted {GREY}.")
    for key in ("spacing", "position", "orientation"):
        if getattr(image, key) is None:
            raise ValueError(f"{where}: {image.path.name} has no {key} in its header.")
    for key in ("size", "spacing", "orientation"):
        seen, wanted = getattr(image, key), getattr(first, key)
        if not np.allclose(seen, wanted, rtol=0, atol=TOLERANCE):
            raise ValueError(
                f"{where}: {image.path.name} has {key} {_text(seen)}, {first.path.name} has {_text(wanted)}; "
                "wanted images of one volume."
            )


def _check_steps(images: Sequence[DicomImage], normal: np.ndarray, where: str) -> None:
    """Equal steps along the normal and none across it."""
    steps = np.diff([_vector(image.position) for image in images], axis=0)
    if not len(steps):
        return
    along = steps @ normal
    usual = float(np.median(along))
    for index, (step, distance) in enumerate(zip(steps, along, strict=True)):
        pair = f"{images[index].path.name} and {images[index + 1].path.name}"
        if distance < TOLERANCE:
            raise ValueError(f"{where}: {pair} lie at the same place, wanted one image a slice.")
        if abs(distance - usual) > EVENNESS * usual:
            raise ValueError(
                f"{where}: slices missing or unevenly spaced, {pair} are {distance:g} mm apart, others {usual:g} mm."
            )
        sideways = float(np.linalg.norm(step - distance * normal))
        if sideways > EVENNESS * usual:
            raise ValueError(f"{where}: {pair} are shifted sideways by {sideways:g} mm, wanted a straight stack.")


def _geometry(images: Sequence[DicomImage]) -> dict[str, np.ndarray]:
    """Columns, rows and slices; mm along each; direction cosines of row and column; mm of the first voxel."""
    first, last = images[0], images[-1]
    length = float(np.dot(_normal(first), _vector(last.position) - _vector(first.position)))
    between = [length / (len(images) - 1)] if len(images) > 1 else []
    return {
        "size": np.array([first.size[1], first.size[0], len(images)]),
        "spacing": np.array([*reversed(first.spacing or ()), *between]),
        "orientation": _vector(first.orientation),
        "origin": _vector(first.position),
    }


def _normal(image: DicomImage) -> np.ndarray:
    row, column = np.split(_vector(image.orientation), 2)
    return np.cross(row, column)


def _vector(values: Sequence[float] | None) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _text(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{float(v):g}" for v in values)
