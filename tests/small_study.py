"""A small labelled study made by hand: images, labels, and the folders of results that methods would have written.

Arrays here are in canonical order (LPS); files are written in an orientation of choice by index arithmetic. What
evaluation should see of a subject is worked out again in :class:`Seen`, with NumPy and SciPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from volume_files import LPS_AFFINE, ORIENTATIONS, configured, save_volume, stored_as

from scripts.evaluation import EvaluationWriter
from scripts.results import ResultFolder, source_of, write_rows

SHAPE = (24, 20, 6)
CANVAS = 32
"""Side of the networks' images; a slice with less than 5 % of its pixels as foreground is not processed."""

SEQUENCES = ["t1", "flair"]
SCORE = {"name": "signed_residual", "sigma": 2.0, "weights": [-0.5, 1.0]}
"""The configured score in JSON values, as inference writes it: maps with it in their settings are read as they are."""

DEFAULTS: dict[str, Any] = {
    "sequences": SEQUENCES,
    "image_size": CANVAS,
    "device": "cpu",
    "median_size": 3,
    "min_component_size": 4,
    "bootstrap_resamples": 20,
    "panels": 1,
    "progress": False,
    "calibration_file": "none.json",
}


@dataclass(eq=False)
class Body:
    """One subject: image (2, W, H, D) in whole numbers, label (W, H, D), and how its files lie."""

    name: str
    image: np.ndarray
    label: np.ndarray
    orientation: str = "LPS"

    def file_slice(self, index: int) -> int:
        """Where the canonical slice lies along the file's own slice axis."""
        order, flips = ORIENTATIONS[self.orientation]
        return self.label.shape[2] - 1 - index if flips[order.index(2)] else index


def make_body(
    name: str,
    seed: int,
    lesion_slices: Iterable[int] = (2, 3),
    orientation: str = "LPS",
    thin: Iterable[int] = (),
    shape: Sequence[int] = SHAPE,
) -> Body:
    """Ellipses of other sizes in the two sequences, and lesions that reach beyond them; ``thin`` is not processed."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    image = np.zeros((2, *shape), dtype=np.float32)
    label = np.zeros(shape, dtype=bool)
    for k in range(shape[2]):
        for channel in range(2):
            radii = (1, 1) if k in thin else rng.uniform(6, 9, 2)
            inside = ((x - 11) / radii[0]) ** 2 + ((y - 9) / radii[1]) ** 2 <= 1
            image[channel, ..., k] = inside * rng.integers(1, 1000, shape[:2])
        for _ in range(2 if k in lesion_slices else 0):
            at, size = rng.integers(5, 15, 2), rng.integers(2, 5, 2)
            label[at[0] : at[0] + size[0], at[1] : at[1] + size[1], k] = True
    return Body(name, image, label, orientation)


def random_map(body: Body, seed: int, contrast: float = 0.3) -> np.ndarray:
    """Noise on the whole image, with ties; brighter over some lesions, and over places that are none."""
    rng = np.random.default_rng(1000 + seed)
    result = rng.gamma(2.0, 0.1, body.label.shape)
    lesions, count = ndimage.label(body.label)
    for number in range(1, count + 1):
        result += contrast * rng.choice([0.2, 0.6, 1.0]) * ndimage.binary_dilation(lesions == number)
    for _ in range(3):
        x, y, k = rng.integers(4, 16), rng.integers(4, 13), rng.integers(body.label.shape[2])
        result[x : x + 3, y : y + 3, k] += contrast * rng.random()
    return np.round(result, 2).astype(np.float32)


class Study:
    """Bodies as files in BraTS layout, and evaluations of them with the bundle's own configuration."""

    def __init__(self, folder: Path, bodies: Sequence[Body]) -> None:
        self.folder, self.data = folder, folder / "data"
        self.bodies = {body.name: body for body in bodies}
        for body in bodies:
            self.write_body(body)

    def write_body(self, body: Body) -> None:
        """One folder with a file a sequence and the label."""
        target = self.data / body.name
        target.mkdir(parents=True, exist_ok=True)
        for sequence, channel in zip(SEQUENCES, body.image, strict=True):
            self.save(target / f"{body.name}_{sequence}.nii.gz", body, channel)
        self.save(target / f"{body.name}_seg.nii.gz", body, body.label.astype(np.uint8) * 4)

    def save(self, path: Path, body: Body, volume: np.ndarray) -> None:
        """A canonical volume (W, H, D), or (c, W, H, D) with channels last in the file, as the body's files lie."""
        if volume.ndim == 3:
            save_volume(path, *stored_as(volume, LPS_AFFINE, body.orientation))
            return
        stored = [stored_as(channel, LPS_AFFINE, body.orientation) for channel in volume]
        save_volume(path, np.stack([array for array, _ in stored], axis=-1), stored[0][1])

    def maps(self, seed: int, contrast: float = 0.3) -> dict[str, np.ndarray]:
        """A random map for every subject."""
        return {n: random_map(b, 100 * seed + i, contrast) for i, (n, b) in enumerate(self.bodies.items())}

    def results(
        self,
        name: str,
        maps: Mapping[str, np.ndarray],
        reconstructions: Mapping[str, np.ndarray] | None = None,
        **settings: Any,
    ) -> str:
        """The folder of an inference with these maps (W, H, D) and reconstructions (2, W, H, D).

        With ``evidence=[]`` it is of a method that has neither evidence nor scores of slices.
        """
        own = {"score": SCORE, "evidence": ["mask_density"], "seed": 0, "anomaly_threshold": 0.35, **settings}
        folder = ResultFolder(str(self.folder / name), own)
        for subject, anomaly in maps.items():
            body = self.bodies[subject]
            paths = [str(self.data / subject / f"{subject}_{sequence}.nii.gz") for sequence in SEQUENCES]
            folder.sources[subject] = source_of({"image": paths})
            rebuilt = reconstruction(body) if reconstructions is None else reconstructions[subject]
            rows = [
                {
                    "subject": subject,
                    "slice": body.file_slice(k),
                    **({"mask_share": share} if own["evidence"] else {}),
                    "map_mean": 0,
                    "map_max": 0,
                }
                for k, share in zip(processed_slices(body), mask_shares(body), strict=True)
            ]
            cost = {"seconds": 1.5, "slices": len(rows), "passes": 3, "peak_memory_bytes": 2e9, "parameters": 3_000_000}
            with folder.writing(subject) as out:
                self.save(out / f"{subject}_anomaly.nii.gz", body, anomaly)
                self.save(out / f"{subject}_reconstruction.nii.gz", body, rebuilt)
                for kind in own["evidence"]:
                    self.save(out / f"{subject}_{kind}.nii.gz", body, np.full(body.label.shape, 0.5, np.float32))
                write_rows(out / f"{subject}_scores.csv", rows)
                (out / f"{subject}_cost.json").write_text(json.dumps(cost))
        return str(folder.folder)

    def evaluation(self, output_dir: str, **settings: Any) -> EvaluationWriter:
        """The configured evaluation of a result folder; nothing has run yet."""
        return self.get("evaluated", output_dir, **settings)

    def get(self, identifier: str, output_dir: str, overlay: str = "evaluation", **settings: Any) -> Any:
        """Any part of the configuration."""
        return configured(identifier, overlay, **self.settings(output_dir, **settings))

    def settings(self, output_dir: str, **settings: Any) -> dict[str, Any]:
        """What the configuration is given."""
        return {**DEFAULTS, "dataset_dir": str(self.data), "output_dir": output_dir, **settings}


def processed_slices(body: Body) -> list[int]:
    """Canonical indices of the slices that hold enough foreground."""
    share = (body.image != 0).any(axis=0).sum(axis=(0, 1)) / CANVAS**2
    return np.flatnonzero(share >= 0.05).tolist()


def reconstruction(body: Body) -> np.ndarray:
    """The scaled image with noise, (2, W, H, D), in [0, 1]."""
    noise = 0.1 * np.random.default_rng(7).standard_normal(body.image.shape)
    return (scaled(body) + noise).clip(0, 1).astype(np.float32)


def mask_shares(body: Body) -> list[float]:
    """An invented share of masked bits for each processed slice."""
    rng = np.random.default_rng(len(body.name) + int(body.image.sum()) % 1000)
    return np.round(rng.random(len(processed_slices(body))), 4).tolist()


def scaled(body: Body) -> np.ndarray:
    """The image divided by the 99.5th percentile of each channel's foreground, cut at 1."""
    highest = [np.percentile(channel[channel != 0], 99.5) for channel in body.image]
    return np.stack([channel / h for channel, h in zip(body.image, highest, strict=True)]).clip(0, 1)


@dataclass(eq=False)
class Seen:
    """What evaluation should see of a subject and a map, processed slices only, (W, H, n)."""

    body: Body
    patient: str
    image: np.ndarray
    label: np.ndarray
    raw: np.ndarray
    smooth: np.ndarray
    reconstruction: np.ndarray
    mask_share: np.ndarray
    heights: np.ndarray

    @property
    def foreground(self) -> np.ndarray:
        return (self.image > 0).any(axis=0)


def seen(body: Body, anomaly: np.ndarray, patient: str | None = None, median_size: int = 3) -> Seen:
    """Smooth and restrict the map slice by slice; the bodies have no holes."""
    slices, image = processed_slices(body), scaled(body)
    smooth = np.zeros_like(anomaly)
    for k in range(anomaly.shape[2]):
        median = ndimage.median_filter(anomaly[..., k], size=median_size, mode="nearest")
        smooth[..., k] = median * (image[..., k] > 0).any(axis=0)
    return Seen(
        body=body,
        patient=patient or body.name,
        image=image[..., slices],
        label=body.label[..., slices],
        raw=anomaly[..., slices],
        smooth=smooth[..., slices],
        reconstruction=reconstruction(body)[..., slices],
        mask_share=np.array(mask_shares(body)),
        heights=np.array(slices) / max(anomaly.shape[2] - 1, 1),
    )
