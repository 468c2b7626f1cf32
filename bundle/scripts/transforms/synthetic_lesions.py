"""Synthetic lesions in healthy slices, so that settings can be chosen without lesion labels.

Two kinds: blobs, soft, textured, brighter or darker by sequence; and foreign patches, the same shapes filled with
another place's tissue (after Tan et al. 2020, "Detecting outliers with foreign patch interpolation",
arXiv 2011.04197). Everything about a lesion is a function of the slice and a seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from scipy.ndimage import gaussian_filter

from ..checks import MANY, outside, refuse
from .standardise import LEAST

EDGE = 0.3
"""Strength of a lesion at its border, as a share of that in its middle; it ends where it can still be seen."""


@dataclass(frozen=True, kw_only=True)
class LesionLooks:
    """What synthetic lesions look like. Pairs are ranges, drawn from anew for every lesion.

    Args:
        signs: for each channel 1 where lesions are bright, -1 where dark, 0 where not seen, ``None`` for either.
        count: lesions a slice, whole numbers.
        size: pixels of a lesion, uniform in the logarithm.
        contrast: change of a channel in the middle of a blob, in units of the channel's median over the foreground.
        elongation: longer axis over shorter, at least 1.
        ragged: how far a smooth random field moves the border, 0 for an ellipse.
        texture: standard deviation of the blob's contrast, as a share of it; at most 0.3, so that signs hold.
        foreign: probability that a lesion is a foreign patch.
    """

    signs: Sequence[float | None]
    count: Sequence[int] = (1, 2)
    size: Sequence[float] = (30, 2000)
    contrast: Sequence[float] = (0.15, 0.8)
    elongation: Sequence[float] = (1.0, 2.5)
    ragged: float = 0.35
    texture: float = 0.2
    foreign: float = 0.2

    def __post_init__(self) -> None:
        """Refuse settings outside their range."""
        refuse(
            type(self).__name__,
            [
                *_range("count", self.count, 1, MANY, whole=True),
                *_range("size", self.size, 1, MANY),
                *_range("contrast", self.contrast, 0, MANY),
                *_range("elongation", self.elongation, 1, MANY),
                *[outside(f"signs[{i}]", sign or 0, -1, 1, whole=True) for i, sign in enumerate(self.signs)],
                outside("ragged", self.ragged, 0, MANY),
                outside("texture", self.texture, 0, 0.3),
                outside("foreign", self.foreign, 0, 1),
            ],
        )


def add_synthetic_lesions(
    image: torch.Tensor, looks: LesionLooks, seed: int | Sequence[int], donor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice with lesions, and where they are.

    Args:
        image: healthy slice (c, H, W) in [0, 1], 0 outside the foreground.
        looks: what lesions look like.
        seed: whole number or numbers that everything random depends on.
        donor: slice (c, H, W) that foreign patches come from; ``None`` for this slice, mirrored.

    Returns:
        image (c, H, W), float32 in [0, 1], changed inside the foreground only and nowhere 0 there; label (1, H, W),
        float32, 1 where the image changed. Both are unchanged and empty where there is no foreground.

    Raises:
        ValueError: when there is not one sign a channel, or the donor has another shape.
    """
    before = image.float().cpu().numpy()
    other = before[..., ::-1] if donor is None else donor.float().cpu().numpy()
    if len(looks.signs) != len(before) or other.shape != before.shape:
        raise ValueError(
            f"synthetic lesions: {len(before)} channels and a donor of shape {before.shape} are wanted, "
            f"got {len(looks.signs)} signs and {other.shape}."
        )
    random, foreground, after = np.random.default_rng(seed), before.max(axis=0) > 0, before
    for _ in range(random.integers(looks.count[0], looks.count[1] + 1) if foreground.any() else 0):
        strength = _strength(foreground, looks, random)
        blob, is_foreign = _blob(after, foreground, looks, random), random.random() < looks.foreign
        target = other if is_foreign else after + blob
        # Outside the other slice's foreground there is no tissue to take.
        strength = strength * (other > 0).any(axis=0) if is_foreign else strength
        after = after + strength * (target - after)
    after = np.where(foreground & (after != before), after.clip(LEAST, 1), before)
    label = (after != before).any(axis=0, keepdims=True)
    return torch.from_numpy(after).float(), torch.from_numpy(label).float()


def _strength(foreground: np.ndarray, looks: LesionLooks, random: np.random.Generator) -> np.ndarray:
    """A soft shape (H, W): 0 outside, from :data:`EDGE` at its border to 1 in its middle; as large as drawn."""
    rows, columns = np.indices(foreground.shape, dtype=np.float32)
    centre = np.argwhere(foreground)[random.integers(foreground.sum())]
    size = np.exp(random.uniform(np.log(looks.size[0]), np.log(looks.size[1])))
    angle, elongation = random.uniform(0, np.pi), random.uniform(looks.elongation[0], looks.elongation[1])
    along = (rows - centre[0]) * np.cos(angle) + (columns - centre[1]) * np.sin(angle)
    across = (columns - centre[1]) * np.cos(angle) - (rows - centre[0]) * np.sin(angle)
    radius = np.sqrt(size / np.pi)
    distance = np.hypot(along / np.sqrt(elongation), across * np.sqrt(elongation)) / radius
    level = np.where(
        foreground, -distance - looks.ragged * _smooth_noise(foreground.shape, radius / 2, random), -np.inf
    )
    # The highest pixels make the lesion, so that it has the size that was drawn, whatever its shape.
    pixels = int(min(max(round(size), 1), foreground.sum()))
    border = np.partition(level, -pixels, axis=None)[-pixels]
    height = (level - border) / max(level.max() - border, 1e-6)
    return np.where(level >= border, EDGE + (1 - EDGE) * np.sqrt(height.clip(0, 1)), 0).astype(np.float32)


def _blob(image: np.ndarray, foreground: np.ndarray, looks: LesionLooks, random: np.random.Generator) -> np.ndarray:
    """What a blob adds to each channel at full strength, (c, H, W)."""
    either = random.choice([-1.0, 1.0], len(image))
    signs = np.array([e if s is None else s for e, s in zip(either, looks.signs, strict=True)])
    contrasts = random.uniform(looks.contrast[0], looks.contrast[1], len(image)) * np.median(
        image[:, foreground], axis=1
    )
    grain = _smooth_noise(foreground.shape, 1.5, random).clip(-3, 3)
    return ((signs * contrasts)[:, None, None] * (1 + looks.texture * grain)).astype(np.float32)


def _smooth_noise(shape: tuple[int, ...], sigma: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise smoothed by ``sigma`` pixels, standard deviation 1."""
    noise = gaussian_filter(random.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return noise / max(float(noise.std()), 1e-6)


class SyntheticLesionsd(Transform):
    """Put lesions into the healthy slices of a standardised subject, and label them.

    Slices are those along the last axis, each with lesions of its own; a lesion does not go on in the next slice. A
    slice's lesions depend on (seed, subject, slice) alone. Foreign patches come from another slice of the subject.
    Slices that hold a true lesion become empty, so that no selector takes them and no true label is used for more.

    Args:
        looks: what lesions look like.
        seed: of all of it.
        share: share of healthy slices that get lesions; the others stay as they are.
        min_foreground: slices with a smaller share of foreground pixels get none, in [0, 1].
        image_key: (c, W, H) or (c, W, H, D), in [0, 1], 0 outside the foreground.
        label_key: of the true label, where there is one, and of the new one.
    """

    def __init__(
        self,
        looks: LesionLooks,
        seed: int = 0,
        share: float = 0.5,
        min_foreground: float = 0.02,
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        refuse(
            type(self).__name__,
            [
                outside("seed", seed, 0, MANY, whole=True),
                outside("share", share, 0, 1),
                outside("min_foreground", min_foreground, 0, 1),
            ],
        )
        self.looks, self.seed, self.share, self.min_foreground = looks, seed, share, min_foreground
        self.image_key, self.label_key = image_key, label_key

    def __call__(self, data: Mapping) -> dict:
        """One subject with synthetic lesions in place of true ones."""
        image, true = data[self.image_key], data.get(self.label_key)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        flat = plain.ndim == 3
        volume = (plain[..., None] if flat else plain).cpu().clone().float()
        if true is not None:
            planes = true[..., None] if flat else true
            volume *= ~(torch.as_tensor(planes).cpu() > 0).any(dim=0).any(dim=0).any(dim=0)
        label = self._place(volume, zlib.crc32(str(data.get("subject", "")).encode()))
        made = {self.image_key: volume, self.label_key: label}
        return {**data, **{key: _like(x[..., 0] if flat else x, image) for key, x in made.items()}}

    def _place(self, volume: torch.Tensor, subject: int) -> torch.Tensor:
        """Change ``volume`` in place, return the label."""
        label, healthy = torch.zeros_like(volume[:1]), volume.clone()
        foreground = (healthy > 0).any(dim=0).float().mean(dim=(0, 1))
        slices = torch.nonzero(foreground > max(self.min_foreground, 0.0)).flatten().tolist()
        for index in slices:
            random = np.random.default_rng((self.seed, subject, index))
            if random.random() >= self.share:
                continue
            donor = healthy[..., slices[random.integers(len(slices))]].flip(1)
            seed = (self.seed, subject, index, 1)
            volume[..., index], label[..., index] = add_synthetic_lesions(healthy[..., index], self.looks, seed, donor)
        return label


def _like(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    values = values.to(image.device)
    if not isinstance(image, MetaTensor):
        return values
    return MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)


def _range(key: str, ends: Sequence[float], low: float, high: float, whole: bool = False) -> list[str | None]:
    return [outside(f"{key}[0]", ends[0], low, ends[1], whole), outside(f"{key}[1]", ends[1], ends[0], high, whole)]
