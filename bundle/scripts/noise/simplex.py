"""Simplex noise of several octaves, whose structures are as large as lesions (Wyatt et al. 2022, AnoDDPM, section 3.2).

The single octave is OpenSimplex noise (K. Spencer), by the package ``opensimplex``. It compiles its loops where the
package ``numba`` is there; without it a field takes some hundred times longer.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.utils import optional_import

from ..checks import outside, refuse
from .draws import Draws
from .kinds import NoiseKind
from .streams import SliceGenerator

logger = logging.getLogger(__name__)

OpenSimplex, HAS_OPENSIMPLEX = optional_import("opensimplex", name="OpenSimplex")

SEEDS = 10**10
"""Fields are seeded by whole numbers in [-SEEDS, SEEDS)."""


def simplex_field(
    seed: int,
    size: Sequence[int],
    timestep: int | None = None,
    octaves: int = 6,
    persistence: float = 0.8,
    frequency: float = 64.0,
) -> np.ndarray:
    """n(y, x) = sum over k of p^k S(x / f_k, y / f_k, t / f_k) with f_k = f / 2^k.

    Args:
        seed: of the field, any integer of 64 bits.
        size: (H, W).
        timestep: t, a cut through 3-D noise; ``None`` for 2-D noise S(x / f_k, y / f_k).
        octaves: number of terms.
        persistence: p, amplitude of an octave beside that of the one before.
        frequency: f, pixels a period of the first octave.

    Returns:
        (H, W), float64, not normalised: with the defaults a standard deviation of about a half.

    Raises:
        monai.utils.OptionalImportError: when the package ``opensimplex`` is missing.
    """
    source, field = OpenSimplex(seed), np.zeros(tuple(size))
    rows, columns = (np.arange(n, dtype=np.float64) for n in size)
    for k in range(octaves):
        f = frequency / 2**k
        if timestep is None:
            octave = source.noise2array(columns / f, rows / f)
        else:
            octave = source.noise3array(columns / f, rows / f, np.array([timestep / f]))[0]
        field += persistence**k * octave
    return field


@dataclass(frozen=True)
class SimplexNoise(NoiseKind):
    """Fields of :func:`simplex_field`, one of its own for every unit, channel and step.

    Attributes:
        octaves: 1 or more.
        persistence: in (0, 1].
        frequency: pixels a period of the first octave, above 0.
        with_time: 3-D noise with the timestep as third coordinate, as AnoDDPM; else 2-D noise, as pDDPM.
        shared: one field for all units and channels, which depends on seed and step alone; in training one a batch
            (its time the first row's, so that only 2-D noise may be shared there).
        half: values rounded to float16, to repeat results of code that stores them so.

    Raises:
        ValueError: when one is outside its range, or ``shared`` noise has a time.
        monai.utils.OptionalImportError: at the first field, when the package ``opensimplex`` is missing.
    """

    octaves: int = 6
    persistence: float = 0.8
    frequency: float = 64.0
    with_time: bool = True
    shared: bool = False
    half: bool = False

    def __post_init__(self) -> None:
        """Check the attributes."""
        problems = [
            outside("octaves", self.octaves, 1, 32, whole=True),
            outside("persistence", self.persistence, 1e-6, 1),
            outside("frequency", self.frequency, 1e-6, 1e6),
            "shared noise must be without time (with_time false)" if self.shared and self.with_time else None,
        ]
        refuse(type(self).__name__, problems)
        if importlib.util.find_spec("numba") is None:
            logger.warning("SimplexNoise: the package numba is not installed; a field then takes seconds.")

    def __call__(self, shape: Sequence[int], streams: SliceGenerator, timestep: int) -> torch.Tensor:
        """See :meth:`NoiseKind.__call__`.

        Raises:
            ValueError: when the units are no images of two axes.
        """
        times = torch.full((shape[0],), timestep)
        return self.fields(shape, self.seeds(shape, streams), times).to(streams.slice_indices.device)

    def draw(self, shape: Sequence[int], draws: Draws, timesteps: torch.Tensor) -> torch.Tensor:
        """See :meth:`NoiseKind.draw`.

        Raises:
            ValueError: when the units are no images of two axes.
        """
        if self.shared:
            seeds = torch.tensor(draws.shared_integers(-SEEDS, SEEDS, 1)).expand(*shape[:2])
        else:
            seeds = draws.rows(shape[0], lambda n: torch.randint(-SEEDS, SEEDS, (n, shape[1])))
        return self.fields(shape, seeds, timesteps).to(timesteps.device)

    def seeds(self, shape: Sequence[int], streams: SliceGenerator) -> torch.Tensor:
        """The fields' seeds, (N, c), int64, from the units' streams."""
        own = SliceGenerator(streams.seed, [0], streams.step) if self.shared else streams
        units, channels = (1, 1) if self.shared else tuple(shape[:2])
        # Two numbers of 24 bits each make one of 48.
        high, low = (own.rand((units, channels, 2)) * 2**24).long().unbind(dim=-1)
        return ((high * 2**24 + low) % (2 * SEEDS) - SEEDS).expand(*shape[:2])

    def fields(self, shape: Sequence[int], seeds: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """A field for every seed (N, c) at its row's time (N,): (N, c, H, W), float32, on the CPU."""
        if len(shape) != 4:
            raise ValueError(f"SimplexNoise: shape must be (N, c, H, W), got {tuple(shape)}.")
        options = (self.octaves, self.persistence, self.frequency)
        made: dict[tuple[int, int | None], np.ndarray] = {}
        rows = zip(seeds.tolist(), timesteps.tolist(), strict=True)
        keys = [(seed, int(t) if self.with_time else None) for row, t in rows for seed in row]
        for key in keys:
            if key not in made:
                made[key] = simplex_field(key[0], shape[2:], key[1], *options)
        noise = torch.from_numpy(np.stack([made[key] for key in keys])).reshape(tuple(shape))
        return (noise.half() if self.half else noise).float()
