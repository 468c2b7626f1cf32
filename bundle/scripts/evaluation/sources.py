"""Where maps come from: a score of stored reconstructions, of the image alone, or the files of other methods.

A source reads one subject at a time and returns what it knows of it on the slices that are judged.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch

from ..describe import describe
from ..results import read_rows, source_of
from ..results.folder import FIRST_COLUMNS, LAST_COLUMNS
from ..scores import Score
from ..writers import ResultWriter
from .subjects import LabelledSubject


@dataclass(frozen=True, eq=False)
class SubjectMaps:
    """What a method says of one subject; n slices.

    Attributes:
        anomaly_map: (W, H, n) float32, finite.
        reconstruction: (c, W, H, n), where there is one.
        slice_scores: by name (n,), those that the method has.
        cost: what :func:`scripts.results.cost.describe_cost` found, where it is known.
    """

    anomaly_map: np.ndarray
    reconstruction: np.ndarray | None = None
    slice_scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None


class MapSource(Protocol):
    """Anything that has maps of subjects."""

    score: Any
    settings: Mapping[str, Any]

    def read(self, subject: LabelledSubject) -> SubjectMaps:
        """Maps of one subject."""
        ...


def apply_score(
    score: Score,
    image: np.ndarray,
    reconstruction: np.ndarray | None = None,
    evidence: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """A score of stored images: (c, W, H, n) in, (W, H, n) out, float32; one slice at a time, which bounds memory."""
    planes = []
    for index in range(image.shape[-1]):
        x, x_hat = (None if a is None else _slice(a, index) for a in (image, reconstruction))
        found = {name: _slice(array, index) for name, array in (evidence or {}).items()}
        planes.append(score(x, x_hat, found)[0, 0].numpy())
    return np.stack(planes, axis=-1) if planes else np.zeros(image.shape[1:], dtype=np.float32)


def _slice(array: np.ndarray, index: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array[..., index]))[None]


class StoredResults:
    """The result folder of an inference, with any score of its stored reconstructions.

    Args:
        folder: ``output_dir`` of the inference.
        writer: knows how images lie in files.
        score: function of (image, reconstruction, evidence).

    Raises:
        FileNotFoundError: when the folder holds no results.
        ValueError: when its ``settings.json`` cannot be read.
    """

    def __init__(self, folder: str, writer: ResultWriter, score: Score) -> None:
        self.folder, self.writer, self._score = Path(folder), writer, score
        path = self.folder / "settings.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder!r} holds no results of an inference: there is no settings.json.")
        try:
            self.settings = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is broken: {error}.") from error
        self.score = json.loads(json.dumps(describe(score)))
        # Scores of the same folder are read one after the other for each subject.
        self._last: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = {}

    def with_score(self, score: Score) -> StoredResults:
        """The same folder under another score."""
        other = copy.copy(self)
        other._score, other.score = score, json.loads(json.dumps(describe(score)))
        return other

    def read(self, subject: LabelledSubject) -> SubjectMaps:
        """Maps of one subject; the stored map itself where it was made with this score.

        Raises:
            ValueError: when files are missing, or of other images than the subject's.
        """
        self._refuse_other_source(subject)
        reconstruction, evidence = self._stored(subject)
        if self.settings.get("score") == self.score:
            anomaly_map = self._planes(subject, "anomaly")[0]
        else:
            anomaly_map = apply_score(self._score, subject.image, reconstruction, evidence)
        cost = self._path(subject, "cost", "json")
        return SubjectMaps(
            anomaly_map,
            reconstruction,
            self._slice_scores(subject),
            json.loads(cost.read_text()) or None if cost.is_file() else None,
        )

    @property
    def evidence(self) -> list[str]:
        """Names of the evidence that is stored; results of version 0.4 and before do not say, and have one kind."""
        return list(self.settings.get("evidence", ["mask_density"]))

    def _stored(self, subject: LabelledSubject) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if subject.name not in self._last:
            self._last.clear()
            there = [name for name in self.evidence if self._path(subject, name).is_file()]
            evidence = {name: self._planes(subject, name) for name in there}
            self._last[subject.name] = self._planes(subject, "reconstruction"), evidence
        return self._last[subject.name]

    def _path(self, subject: LabelledSubject, name: str, ending: str = "nii.gz") -> Path:
        return self.folder / subject.name / f"{subject.name}_{name}.{ending}"

    def _planes(self, subject: LabelledSubject, name: str) -> np.ndarray:
        return read_checked(self._path(subject, name), self.writer, subject)

    def _slice_scores(self, subject: LabelledSubject) -> dict[str, np.ndarray]:
        rows = {int(row["slice"]): row for row in read_rows(self._path(subject, "scores", "csv"))}
        missing = [int(n) for n in subject.numbers if int(n) not in rows]
        if missing:
            raise ValueError(f"{self._path(subject, 'scores', 'csv')}: slices {missing} were not processed.")
        chosen = [rows[int(n)] for n in subject.numbers]
        names = [key for row in chosen[:1] for key in row if key not in (*FIRST_COLUMNS, *LAST_COLUMNS)]
        return {name: np.array([float(row[name]) for row in chosen]) for name in names}

    def _refuse_other_source(self, subject: LabelledSubject) -> None:
        if not self._path(subject, "scores", "csv").is_file():
            raise ValueError(f"subject {subject.name}: no finished result in {str(self.folder)!r}.")
        path, here = self._path(subject, "source", "json"), source_of(subject.item)
        there = json.loads(path.read_text()) if path.is_file() else None
        if there not in (None, here):
            raise ValueError(f"{str(path)!r} is of other files: {there} there, {here} in the data list.")


class ForeignMaps:
    """Anomaly maps that any other method wrote as NIfTI in the images' own geometry.

    ``S/S_anomaly``, ``S_anomaly``, ``S/anomaly`` or ``S``, ``.nii.gz`` or ``.nii``; at least 0, higher is more
    anomalous.

    Args:
        folder: where they lie.
        writer: knows how images lie in files.

    Raises:
        FileNotFoundError: when there is no such folder.
    """

    def __init__(self, folder: str, writer: ResultWriter) -> None:
        self.folder, self.writer = Path(folder), writer
        if not self.folder.is_dir():
            raise FileNotFoundError(f"maps_dir: no folder {folder!r}.")
        self.score: Any = "as stored"
        self.settings: Mapping[str, Any] = {}

    def read(self, subject: LabelledSubject) -> SubjectMaps:
        """The map of one subject.

        Raises:
            ValueError: when there is none, it does not lie as the image does, or it holds values below 0, which is
                what maps are set to outside the foreground.
        """
        name = subject.name
        stems = (f"{name}/{name}_anomaly", f"{name}_anomaly", f"{name}/anomaly", name)
        paths = [self.folder / f"{stem}{ending}" for stem in stems for ending in (".nii.gz", ".nii")]
        path = next((p for p in paths if p.is_file()), None)
        if path is None:
            raise ValueError(
                f"maps_dir: no map of {name} in {str(self.folder)!r}; looked for {paths[0].name} and so on."
            )
        planes = read_checked(path, self.writer, subject)
        if len(planes) != 1:
            raise ValueError(f"{str(path)!r}: has {len(planes)} channels, a map has one.")
        if (planes < 0).any():
            raise ValueError(f"{str(path)!r}: values from {planes.min():g}, maps are at least 0.")
        return SubjectMaps(planes[0])


class ImageScore:
    """A score that needs the image only, such as a bright sequence: a baseline without any model.

    Args:
        score: function of the image.
    """

    def __init__(self, score: Score) -> None:
        self._score, self.score = score, describe(score)
        self.settings: Mapping[str, Any] = {}

    def read(self, subject: LabelledSubject) -> SubjectMaps:
        """The score of one subject."""
        return SubjectMaps(apply_score(self._score, subject.image))


def read_checked(path: Path, writer: ResultWriter, subject: LabelledSubject) -> np.ndarray:
    """Slices (c, W, H, n) of a stored image that must lie as the subject's does.

    Raises:
        ValueError: when the file is missing or cannot be read, or its shape, space or values are wrong.
    """
    if not path.is_file():
        raise ValueError(f"subject {subject.name}: there is no {str(path)!r}.")
    try:
        planes = writer.read_file(path)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r}: cannot be read as an image like the subject's ({what}).") from None
    wanted = (*subject.image.shape[1:3], subject.depth)
    if planes.shape[1:] != wanted:
        raise ValueError(f"{str(path)!r}: shape {planes.shape[1:]}, the image has {wanted}.")
    stored = nib.Nifti1Image.from_filename(path)
    space = writer.space(stored.affine, stored.shape[:3])
    if not np.allclose(space, subject.space, atol=1e-2):
        raise ValueError(f"{str(path)!r}: in canonical order its affine is {space}, the image's {subject.space}.")
    planes = planes[..., subject.slices]
    if not np.isfinite(planes).all():
        raise ValueError(f"{str(path)!r}: {np.count_nonzero(~np.isfinite(planes))} values are NaN or infinite.")
    return planes
