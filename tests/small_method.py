"""A method of a few lines with fields of all kinds, and masked Bernoulli diffusion as the grid takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from scripts.checks import outside, refuse
from scripts.methods.contract import Method, Restoration, setting
from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.schedulers import BernoulliScheduler

SCHEDULER = BernoulliScheduler(1000)


@dataclass(frozen=True, eq=False, kw_only=True)
class Blur(Method):
    """Fields with all names, with a symbol alone, and with none; nothing of it is ever run."""

    slice_scores: ClassVar[tuple[str, ...]] = ("roughness",)

    width: float | None = setting(2.0, symbol="W", label="width of the blur", column="width_px")
    repeats: int = setting(1, symbol="R")
    edge: str = "wrap"
    keep: bool = False

    def __post_init__(self) -> None:
        problems = [
            None if self.width is None else outside("width", self.width, 0, float("inf")),
            outside("repeats", self.repeats, 1, 9, whole=True),
            None if isinstance(self.keep, bool) else f"keep must be true or false, got {self.keep!r}",
        ]
        refuse(type(self).__name__, problems)

    @property
    def passes(self) -> int:
        return self.repeats

    def restore(self, images, encoded, network, streams, on_step) -> Restoration:
        return Restoration(images, slice_scores={"roughness": torch.zeros(len(images))})


def masked(**settings) -> MaskedBernoulli:
    """The method with 1000 steps of noise."""
    return MaskedBernoulli(scheduler=SCHEDULER, **settings)
