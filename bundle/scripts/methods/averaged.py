"""Several restorations in place of one, for any method that draws (Behrendt et al. 2024, arXiv 2407.12474)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import outside, refuse
from ..mahalanobis import mahalanobis_map
from ..networks import Parts
from ..noise import SliceGenerator
from ..noise.runs import run_streams
from .contract import Method, OnStep, Restoration, setting


@dataclass(frozen=True, eq=False, kw_only=True)
class Averaged(Method):
    """Restore N times, each time with other draws: the mean, and how far the image is from all of them.

    Reconstruction, evidence and slice scores are the means of the method's own. Evidence of its own: ``mahalanobis``,
    see :func:`scripts.mahalanobis.mahalanobis_map`. The authors take N = 10 and smooth the map with sigma 1.

    Args:
        method: what restores; its first run has the draws that it has by itself.
        count: N, at least 2.
        ridge: what is added to the variances of the restorations; ``None`` for the shrinkage of Ledoit and Wolf.
        foreground: measure the distance where any channel of the image is above 0, and leave 0 elsewhere.

    Raises:
        ValueError: naming every setting that is out of range.
    """

    method: Method
    count: int = setting(10, symbol="N", label="restorations N")
    ridge: float | None = 0.01
    foreground: bool = True

    def __post_init__(self) -> None:
        """Check the settings, and take over what the method says of itself."""
        problems = [
            outside("count", self.count, 2, 1e6, whole=True),
            None if self.ridge is None else outside("ridge", self.ridge, 1e-8, 1e8),
        ]
        refuse(type(self).__name__, problems)
        said = {
            "count": int(self.count),
            "evidence": (*self.method.evidence, "mahalanobis"),
            "slice_scores": self.method.slice_scores,
            "image_score": self.method.image_score,
        }
        for name, value in said.items():
            object.__setattr__(self, name, value)

    @property
    def passes(self) -> int:
        """Network evaluations a slice, of all runs."""
        return self.count * self.method.passes

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """The method's encoding, the same for all runs."""
        return self.method.encode(images, network)

    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """N restorations, one after the other, so that they need no more memory than one but for their results."""
        runs = [
            self.method.restore(images, encoded, network, run_streams(streams, run), on_step)
            for run in range(self.count)
        ]
        restorations = torch.stack([run.reconstruction.float() for run in runs], dim=1)
        evidence = {**_means(run.evidence for run in runs), "mahalanobis": self._distances(images, restorations)}
        return Restoration(restorations.mean(dim=1), evidence, _means(run.slice_scores for run in runs))

    def _distances(self, images: torch.Tensor, restorations: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) of images (B, c, H, W) and restorations (B, N, c, H, W)."""
        inside = (images > 0).any(dim=1, keepdim=True) if self.foreground else torch.ones_like(images[:, :1]).bool()
        maps = [
            mahalanobis_map(*unit, ridge=self.ridge) for unit in zip(images.float(), restorations, inside, strict=True)
        ]
        return torch.stack(maps)

    def trial(self) -> Method:
        """The method's own trial; all N results are kept."""
        return self.replace(method=self.method.trial())

    def replace(self, **values: Any) -> Method:
        """Other settings; those that are not of this class are the method's."""
        own = {field.name for field in dataclasses.fields(self)}
        inner = {name: value for name, value in values.items() if name not in own}
        outer = {name: value for name, value in values.items() if name in own}
        if inner:
            outer["method"] = outer.get("method", self.method).replace(**inner)
        return super().replace(**outer)


def _means(runs: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean of each entry over the runs; NaN in any of them stays."""
    listed = list(runs)
    return {name: torch.stack([run[name].float() for run in listed]).mean(dim=0) for name in listed[0]}
