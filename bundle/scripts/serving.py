"""What a labelling server such as MONAI Label asks of inference, beyond the workflow.

The server reads ``displayable_configs``, ``pre_transforms``, ``inferer`` and ``post_transforms`` of the inference
configuration for every request, runs the transforms one after the other, and passes on what they put under ``result``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform

from .checks import outside, refuse
from .files import writable_folder
from .inferers.anomaly import PROCESSED, SLICE_SCORES
from .methods import Method
from .writers.volume import VolumeWriter, save_nifti, space_code, to_array

DATASTORE_FILE = "datastore_v2.json"
"""The file by which a folder of images is known as MONAI Label's; its labels are in ``labels/TAG``."""

MAP_TAG = "anomaly_map"
"""Tag of the float maps among the labels."""


LARGEST_COSINE = 1e-3
"""Between two axes of an image that counts as right-angled."""


def optional_number(value: Any, name: str = "anomaly_threshold") -> Any:
    """A setting that may be unset, as clients send it: their forms know text only, and an empty one for ``None``.

    Args:
        value: ``None``, a number, or a text.
        name: of the setting, for the error.

    Returns:
        ``None`` for ``None`` and for empty text, else the number.

    Raises:
        ValueError: when it is no number of at least 0.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number: Any = float(value) if isinstance(value, str) else value
    except ValueError:
        number = value
    refuse("settings", [outside(name, number, 0, float("inf"))])
    return number


class CheckRequestd(Transform):
    """Refuse a request for an unknown image or for other weights; drop its ``label``, which inference has no use for.

    The server makes an empty path of an image that it does not know. It offers every ``*.pt`` in ``models/``, and takes
    the one with the shortest name if nobody chooses; the calibrated threshold belongs to one of them.

    Args:
        weights: the configured file of weights.

    Raises (when called):
        ValueError: when there is no image, or naming the weights that would be loaded and the configured ones.
    """

    def __init__(self, weights: str) -> None:
        self.weights = Path(weights)

    def __call__(self, data: Mapping) -> dict:
        """Check ``image`` and, where there is one, ``model_filename``."""
        if isinstance(data["image"], str) and not data["image"]:
            raise ValueError("image: the server's folder has no image of that name.")
        names = data.get("model_filename") or [self.weights.name]
        name = names if isinstance(names, str) else names[0]
        # What does not exist is ignored by the server, which then takes its default.
        if name != self.weights.name and (self.weights.parent / name).exists():
            raise ValueError(
                f"model_filename: {name!r} would be loaded, the configuration (weights) wants {self.weights.name!r}; "
                f"send model_filename {self.weights.name!r}, or keep other *.pt files elsewhere."
            )
        return {key: value for key, value in data.items() if key != "label"}


class CheckGeometryd(Transform):
    """Refuse an image whose label the server would put elsewhere: it writes NIfTI with axes at right angles only.

    Raises (when called):
        ValueError: when the axes of ``image`` are not at right angles and the label is to be NIfTI; names the file, the
            largest cosine between two axes and what is allowed.
    """

    def __call__(self, data: Mapping) -> dict:
        """Check ``image``, as it was loaded."""
        path = str(data["image_path"])
        wanted = str(data.get("result_extension") or path)
        axes = np.asarray(data["image"].affine, dtype=np.float64)[:3, :3]
        axes = axes / np.linalg.norm(axes, axis=0)  # a copy: the affine itself is not to change
        cosine = np.abs(axes.T @ axes - np.eye(3)).max()
        if cosine > LARGEST_COSINE and wanted.endswith((".nii", ".nii.gz")):
            raise ValueError(
                f"{path}: its axes are not at right angles (cosine {cosine:.2g}, allowed are {LARGEST_COSINE:g}), "
                "and the server would straighten the label; ask for result_extension '.nrrd'."
            )
        return dict(data)


class TakeSliceScoresd(Transform):
    """Put what an anomaly map carries of its slices under keys of its own, before ``Invertd`` drops it.

    Args:
        key: the map of one volume, as the inferer returned it. ``processed`` becomes (D,), boolean, ``slice_scores`` by
            name (D,), NaN for slices that were not processed.
    """

    def __init__(self, key: str = "pred") -> None:
        self.key = key

    def __call__(self, data: Mapping) -> dict:
        """Add ``processed`` and ``slice_scores``."""
        meta = data[self.key].meta
        scores = {name: values.reshape(-1) for name, values in meta[SLICE_SCORES].items()}
        return {**data, PROCESSED: meta[PROCESSED].reshape(-1), SLICE_SCORES: scores}


class DescribeResultd(Transform):
    """Save the float map beside the server's labels, and say under ``result`` what a client may want to know.

    Expects what postprocessing leaves: ``image``, ``anomaly_map`` and ``pred`` (the segmentation, which becomes uint8)
    in the input's own space, ``processed`` and ``slice_scores`` in canonical order, and the input's ``image_path``.

    ``result`` holds ``image_score``, the mean over the processed slices of the method's image score; ``volume`` and,
    for each processed slice, ``slices`` with the method's slice scores, ``map_mean`` and ``map_max``; ``anomaly_map``,
    the path of the map and, in a folder of the server's, the image's name and the tag by which the server knows it;
    ``settings``.

    Args:
        layout: counts slices as the file does.
        method: whose scores are told.
        settings: what the result depends on, in JSON values.
    """

    def __init__(self, layout: VolumeWriter, method: Method, settings: Mapping[str, Any]) -> None:
        self.layout, self.method, self.settings = layout, method, dict(settings)

    def __call__(self, data: Mapping) -> dict:
        """Add ``result``."""
        rows = self.layout.scores("", data)
        slices = [{k: row[k] if k == "slice" else float(row[k]) for k in row if k != "subject"} for row in rows]
        volume = summarise(slices, self.method.slice_scores)
        described = {
            "image_score": volume[self.method.image_score],
            "volume": volume,
            "slices": slices,
            "anomaly_map": save_map(data["anomaly_map"], data["image"], Path(data["image_path"])),
            "settings": self.settings,
        }
        return {**data, "pred": data["pred"].to(torch.uint8), "result": {**data.get("result", {}), **described}}


def summarise(slices: list[dict[str, Any]], slice_scores: Sequence[str] = ()) -> dict[str, Any]:
    """Of all slices: how many, mean and largest of each score, mean and largest value of the map; ``None`` without any.

    Args:
        slices: rows with the scores, ``map_mean`` and ``map_max``.
        slice_scores: names; the largest of ``mask_share`` is called ``mask_share_max``.
    """
    functions: dict[str, tuple[str, Callable]] = {"map_mean": ("map_mean", np.mean), "map_max": ("map_max", max)}
    for name in reversed(slice_scores):
        functions = {name: (name, np.mean), f"{name}_max": (name, max), **functions}
    said = {
        key: float(of([row[column] for row in slices])) if slices else None for key, (column, of) in functions.items()
    }
    return {"slices": len(slices), **said}


def save_map(anomaly_map: torch.Tensor, image: MetaTensor, image_path: Path) -> dict[str, str]:
    """Save a map (1, W, H, D) as float32 NIfTI in the image's space.

    An image of a server's folder gets it as ``labels/anomaly_map/NAME.nii.gz`` there, in place of the one before; any
    other, which came with the request, as a new file in the system's folder for temporary files, where the server puts
    the label too.

    Returns:
        ``path``, and of the first kind ``image`` and ``tag``.

    Raises:
        OSError: when the folder cannot be written.
    """
    name = image_path.name.removesuffix(".gz")
    name = name.removesuffix(Path(name).suffix)
    array, affine, code = to_array(anomaly_map)[0], np.asarray(image.affine, dtype=np.float64), space_code(image)
    if not (image_path.parent / DATASTORE_FILE).is_file():
        handle, path = tempfile.mkstemp(prefix=f"{name}_{MAP_TAG}_", suffix=".nii.gz")
        os.close(handle)
        save_nifti(array, affine, Path(path), code)
        return {"path": path}
    target = writable_folder(image_path.parent / "labels" / MAP_TAG, MAP_TAG) / f"{name}.nii.gz"
    # Whole or not there: written in a folder beside its place first.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        save_nifti(array, affine, Path(temporary) / target.name, code)
        os.replace(Path(temporary) / target.name, target)
    return {"path": str(target), "image": name, "tag": MAP_TAG}
