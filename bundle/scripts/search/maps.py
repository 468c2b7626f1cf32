"""Maps of one subject under many settings, in the file's own pixels, from one encoding."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd
from monai.utils import CommonKeys, convert_to_dst_type

from ..evaluation.subjects import LabelledSubject
from ..inferers import AnomalyInferer, EncodedVolumes
from ..networks import Parts
from ..writers import ResultWriter
from .grid import Setting


@dataclass(frozen=True, eq=False)
class EncodedSubject:
    """A subject as the networks see it.

    Attributes:
        image: preprocessed, (c, W, H) or (c, W, H, D), with the record of its preprocessing.
        encoded: its slices to process, on the networks' device.
    """

    image: torch.Tensor
    encoded: EncodedVolumes


@dataclass(frozen=True, eq=False)
class SettingResult:
    """What a setting says of one subject; n is the number of processed slices.

    Attributes:
        anomaly_map: (W, H, n) float32, in the file's own pixels, before smoothing.
        slice_scores: by name (n,).
        seconds: what restoring took.
    """

    anomaly_map: np.ndarray
    slice_scores: dict[str, np.ndarray]
    seconds: float


class SettingRunner:
    """Encode a subject once and restore it under any setting, as inference does under its own.

    Args:
        inferer: of the inference; its method is replaced by the setting's.
        network: of the method.
        preprocessing: of the inference.
        writer: knows how images lie in files.
        device: of the networks.
    """

    def __init__(
        self,
        inferer: AnomalyInferer,
        network: Parts,
        preprocessing: Any,
        writer: ResultWriter,
        device: torch.device | str = "cpu",
    ) -> None:
        self.inferer, self.network, self.preprocessing = inferer, network, preprocessing
        self.writer, self.device = writer, torch.device(device)
        self.invert = Invertd(
            CommonKeys.PRED, preprocessing, orig_keys=CommonKeys.IMAGE, nearest_interp=False, to_tensor=True
        )

    def encode(self, item: Mapping[str, Any]) -> EncodedSubject:
        """Preprocess and encode one item of a data list."""
        image = self.preprocessing({k: v for k, v in item.items() if k != "label"})[CommonKeys.IMAGE]
        return EncodedSubject(image, self.inferer.encode_volumes(self._batch(image), self.network))

    def run(self, encoded: EncodedSubject, subject: LabelledSubject, setting: Setting) -> SettingResult:
        """Restore a subject under one setting.

        Raises:
            ValueError: when a network's output is not a number.
        """
        # A copy keeps everything else that was configured.
        inferer = copy.copy(self.inferer)
        inferer.method = setting.method
        start = time.perf_counter()
        result = inferer.restore_volumes(encoded.encoded, self.network)[0]
        # Copied to the CPU before the clock is read: a GPU would still be at work.
        anomaly_map = result.anomaly_map.cpu()
        seconds = time.perf_counter() - start
        scores = {name: values.cpu().numpy()[subject.slices] for name, values in result.slice_scores.items()}
        planes = self.writer.planes(self._to_file(anomaly_map, encoded.image))[0]
        return SettingResult(planes[..., subject.slices], scores, seconds)

    def _batch(self, image: torch.Tensor) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return plain.to(self.device)[None]

    def _to_file(self, anomaly_map: torch.Tensor, image: torch.Tensor) -> MetaTensor:
        """The map in the file's own geometry."""
        # A single picture has no axis of slices.
        typed = convert_to_dst_type(anomaly_map.reshape(1, *image.shape[1:]), image)[0]
        return self.invert({CommonKeys.IMAGE: image, CommonKeys.PRED: typed})[CommonKeys.PRED]
