"""What a method is to the rest of the bundle.

A method restores units of an image: slices today; nothing here says how many axes a unit has, so a later one may take
patches of a volume. It sees N units at once and says three things of them (:class:`Restoration`). Which units a volume
has, how many fit the memory, where their results belong, what is scored and written: all that is the business of
:class:`~scripts.inferers.AnomalyInferer`, which holds a method and which no method subclasses.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..describe import describe
from ..networks import Parts
from ..noise import SliceGenerator

OnStep = Callable[[], object]


def in_pieces(function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """``function(batch)``, on a CPU one item at a time: activations of full size are slower there in large batches."""
    return torch.cat([function(piece) for piece in batch.split(1 if batch.device.type == "cpu" else len(batch))])


@dataclass
class Restoration:
    """What a method says of N units; nothing else leaves it.

    Attributes:
        reconstruction: what the units would look like if they were healthy, (N, c, *size), in the image's units.
        evidence: by name what else it found at each place, (N, k, *places), at a grid of its own: it is brought to the
            image's size, stored, and handed to scores. The names are those of ``Method.evidence``.
        slice_scores: by name a number a unit, (N,), higher is more anomalous; NaN says that a network failed. The
            names are those of ``Method.slice_scores``.
    """

    reconstruction: torch.Tensor
    evidence: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    slice_scores: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def setting(default: Any = dataclasses.MISSING, *, symbol: str = "", label: str = "", column: str = "") -> Any:
    """A field of a method that a search may go through.

    Args:
        default: its value.
        symbol: short name for files, such as ``L``.
        label: name in figures, such as ``noise level L``.
        column: name in tables, where it is not the field's.
    """
    return dataclasses.field(default=default, metadata={"symbol": symbol, "label": label, "column": column})


def undescribed(default: Any = dataclasses.MISSING) -> Any:
    """A field that results do not depend on beyond rounding, such as how a loop is compiled."""
    return dataclasses.field(default=default, metadata={"describe": False})


@dataclass(frozen=True, eq=False, kw_only=True)
class Method(ABC):
    """A way to restore what is anomalous. The fields of a subclass are its settings.

    A subclass is a frozen dataclass too. It checks its fields in ``__post_init__`` and raises one ``ValueError`` that
    names all that are wrong, with value and range (:func:`scripts.checks.refuse`). It holds no state of a run and no
    network: all randomness comes from ``streams``, so that a unit's result depends on (seed, unit, step) alone.

    Class attributes:
        evidence: names of what :meth:`restore` finds beside the reconstruction.
        slice_scores: names of its numbers a unit.
        image_score: the column of ``scores.csv`` that tells diseased units from healthy ones.
    """

    evidence: ClassVar[tuple[str, ...]] = ()
    slice_scores: ClassVar[tuple[str, ...]] = ()
    image_score: ClassVar[str] = "map_mean"

    @property
    def passes(self) -> int:
        """Network evaluations a unit, for progress and cost."""
        return 1

    def encode(self, images: torch.Tensor, network: Parts) -> torch.Tensor:
        """What all settings of the method share, so that a search computes it once; by default the images.

        Args:
            images: (N, c, *size) in the image's units.
            network: the parts.

        Returns:
            (N, ...), float32.
        """
        return images

    @abstractmethod
    def restore(
        self, images: torch.Tensor, encoded: torch.Tensor, network: Parts, streams: SliceGenerator, on_step: OnStep
    ) -> Restoration:
        """Restore N units; runs without gradients (use ``torch.enable_grad`` where guidance needs them).

        Args:
            images: (N, c, *size).
            encoded: what :meth:`encode` made of them.
            network: the parts.
            streams: the units' random streams; each draw takes ``streams.at(step)`` with a step of its own.
            on_step: to be called :attr:`passes` times, after each network evaluation.
        """

    def trial(self) -> Method:
        """The cheapest setting that needs as much memory, to find out how many units fit."""
        return self

    def replace(self, **values: Any) -> Method:
        """The method with other settings; a search calls this with the values of its axes.

        Raises:
            ValueError: when there is no such setting, or a value is out of range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(unknown)}; it has {', '.join(names)}.")
        return dataclasses.replace(self, **values)

    def describe(self) -> dict[str, Any]:
        """Name and settings in JSON values: what results of this method depend on."""
        fields = [f for f in dataclasses.fields(self) if f.metadata.get("describe", True)]
        return {"name": type(self).__name__, **{f.name: describe(getattr(self, f.name)) for f in fields}}
