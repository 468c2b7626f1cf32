"""What is kept of one subject under one setting: histograms and a few numbers a slice, never the map."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.bins import Bins
from ..evaluation.subjects import LabelledSubject
from ..files import atomic_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Cell:
    """One subject under one setting; n is the number of processed slices.

    Attributes:
        lesion: (bins,) foreground pixels of lesions by their value in the processed map.
        healthy: (bins,) foreground pixels of slices without a lesion.
        beside: (bins,) lesion-free foreground pixels of slices with a lesion.
        diseased: (n,) whether a slice has a lesion, boolean.
        map_mean: (n,) mean of the processed map over the slice's foreground, 0 without any.
        seconds: () what restoring took; the encoding, shared by all settings, is left out.
        slice_scores: by name (n,), the method's own numbers of a slice.
    """

    lesion: np.ndarray
    healthy: np.ndarray
    beside: np.ndarray
    diseased: np.ndarray
    map_mean: np.ndarray
    seconds: np.ndarray
    slice_scores: Mapping[str, np.ndarray]

    @property
    def slices(self) -> int:
        """Number of processed slices."""
        return len(self.diseased)

    @property
    def lesion_free(self) -> np.ndarray:
        """(bins,) lesion-free foreground pixels of all slices."""
        return self.healthy + self.beside


ARRAYS = tuple(field.name for field in fields(Cell) if field.name != "slice_scores")
SCORE = "slice_score_"
"""Beginning of the names of a stored cell's slice scores."""


def make_cell(
    subject: LabelledSubject,
    processed: np.ndarray,
    slice_scores: Mapping[str, np.ndarray],
    seconds: float,
    bins: Bins,
) -> Cell:
    """What is kept of a processed map (W, H, n) and the scores (n,) of the subject's slices.

    Raises:
        ValueError: when the map or a score is not finite.
    """
    for name, values in slice_scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"subject {subject.name}: {np.count_nonzero(~np.isfinite(values))} of {name} are NaN.")
    foreground, label = subject.foreground, subject.label
    diseased = np.broadcast_to(subject.diseased, label.shape)
    means = [processed[..., k][foreground[..., k]].mean(dtype=np.float64) for k in _occupied(foreground)]
    map_mean = np.zeros(processed.shape[-1])
    map_mean[_occupied(foreground)] = means
    return Cell(
        lesion=bins.histogram(processed[foreground & label]),
        healthy=bins.histogram(processed[foreground & ~diseased]),
        beside=bins.histogram(processed[foreground & diseased & ~label]),
        diseased=subject.diseased,
        map_mean=map_mean,
        seconds=np.array(float(seconds)),
        slice_scores={name: np.asarray(values, dtype=np.float64) for name, values in slice_scores.items()},
    )


def merge_cells(cells: list[Cell]) -> Cell:
    """All subjects of a setting together: histograms and seconds are added, slices put one after the other.

    Raises:
        ValueError: when there is no cell.
    """
    if not cells:
        raise ValueError("no cells to merge.")
    merged: dict[str, np.ndarray] = {}
    for name in ARRAYS:
        values = [getattr(cell, name) for cell in cells]
        together = np.concatenate if name in ("diseased", "map_mean") else sum
        merged[name] = np.asarray(together(values))
    scores = {name: np.concatenate([cell.slice_scores[name] for cell in cells]) for name in cells[0].slice_scores}
    return Cell(**merged, slice_scores=scores)


def save_cell(path: Path, cell: Cell) -> None:
    """Write a cell as ``.npz``, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = {name: getattr(cell, name) for name in ARRAYS}
        arrays |= {SCORE + name: values for name, values in cell.slice_scores.items()}
        np.savez_compressed(stream, **arrays)


def load_cell(path: Path, bins: Bins) -> Cell | None:
    """Read what :func:`save_cell` wrote; ``None`` where there is no such file, or, with a warning, a broken one."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            scores = {name.removeprefix(SCORE): content[name] for name in content if name.startswith(SCORE)}
            cell = Cell(**{name: content[name] for name in ARRAYS}, slice_scores=scores)
        if {len(h) for h in (cell.lesion, cell.healthy, cell.beside)} != {bins.count}:
            raise ValueError(f"histograms have not {bins.count} bins")
        return cell
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        logger.warning("%s is broken (%s) and will be computed again", path, error)
        return None


def _occupied(foreground: np.ndarray) -> np.ndarray:
    """Slices with any foreground."""
    return np.flatnonzero(foreground.any(axis=(0, 1)))
