"""Random numbers that depend on a key and nothing else.

A sampler that draws from one shared stream makes a slice's result depend on the batch it sat in. Here every
number is a pure function of (seed, slice index, step, position): batches equal their single runs, an interrupted
run equals an undisturbed one, and the CPU and the GPU see the same noise. The function is SplitMix64 (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) in counter mode: element i of a stream is
``mix(state + i * GAMMA)``, computed for all elements at once with wrapping int64 arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

# Odd 64-bit constants of SplitMix64, written as the signed integers that torch.int64 holds.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_LOW_31 = 2**31 - 1
_LOW_24 = 2**24 - 1


def _shift_right(value: torch.Tensor, bits: int, out: torch.Tensor) -> torch.Tensor:
    """Logical right shift into ``out``: torch's own keeps the sign, so the copies of the sign bit are cleared."""
    return torch.bitwise_right_shift(value, bits, out=out).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_(value: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser, a bijection of the 64-bit integers, in place: fresh memory costs more than the work."""
    value.bitwise_xor_(_shift_right(value, 30, scratch)).mul_(_MIX_1)
    value.bitwise_xor_(_shift_right(value, 27, scratch)).mul_(_MIX_2)
    return value.bitwise_xor_(_shift_right(value, 31, scratch))


class SliceGenerator:
    """Uniform random numbers for a batch of slices, one independent stream per slice and step.

    Args:
        seed: the run's seed, any Python integer.
        slice_indices: index of each slice of the batch in its own volume, shape (B,), integers >= 0.
        step: which draw of the algorithm this is; see :meth:`at`.
        device: where the numbers are made; they are the same on every device.
    """

    def __init__(
        self,
        seed: int,
        slice_indices: torch.Tensor | Sequence[int],
        step: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        indices = torch.as_tensor(slice_indices, dtype=torch.int64, device=device)
        if indices.ndim != 1:
            raise ValueError(f"slice_indices must have shape (B,), got {tuple(indices.shape)}.")
        self.seed, self.slice_indices, self.step = int(seed), indices, int(step)

    def at(self, step: int) -> SliceGenerator:
        """The same slices' streams at another ``step``."""
        return SliceGenerator(self.seed, self.slice_indices, step)

    def rand(self, shape: Sequence[int]) -> torch.Tensor:
        """Uniform numbers in [0, 1) with 24 random bits.

        Args:
            shape: (B, ...); B must be the number of slices.

        Returns:
            float32 tensor of that shape.

        Raises:
            ValueError: when the first dimension is not the number of slices.
        """
        batch, numel = shape[0], math.prod(shape[1:])
        if batch != self.slice_indices.numel():
            raise ValueError(
                f"shape {tuple(shape)} asks for {batch} slices, the generator has {len(self.slice_indices)}."
            )
        offsets = word_offsets(numel, self.slice_indices.device)
        return numbers(self._states(_step_key(self.step)), offsets)[:, :numel].reshape(tuple(shape))

    def randn(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers (Box and Muller 1958), float32, of two uniform ones each.

        The same on every device but for the last digit, which logarithm and cosine may round otherwise.

        Args:
            shape: (B, ...); B must be the number of slices.

        Raises:
            ValueError: when the first dimension is not the number of slices.
        """
        first, second = self.rand((shape[0], 2 * math.prod(shape[1:]))).double().chunk(2, dim=1)
        # 1 - u lies in (0, 1]: the logarithm is finite.
        radius = (-2 * torch.log1p(-first)).sqrt()
        return (radius * torch.cos(2 * math.pi * second)).float().reshape(tuple(shape))

    def states(self, steps: Sequence[int]) -> torch.Tensor:
        """Start of each slice's stream at each of several steps, (steps, B), int64, for :func:`numbers`."""
        keys = torch.tensor([_step_key(step) for step in steps], device=self.slice_indices.device)
        return self._states(keys[:, None])

    def _states(self, step_key: int | torch.Tensor) -> torch.Tensor:
        """The key mixed in one part at a time: seed, slice index, step."""
        # Python integers above 63 bits do not fit; the seed keeps its low 63 bits.
        seed = torch.full_like(self.slice_indices, self.seed & (2**63 - 1))
        scratch = torch.empty_like(seed)
        state = _mix_(seed.add_(_GAMMA), scratch).add_(self.slice_indices)
        state = _mix_(state, scratch) + step_key
        return _mix_(state, torch.empty_like(state))


def _step_key(step: int) -> int:
    return step * 0x632BE59BD9B4E019 % 2**63


def word_offsets(count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Where the words of ``count`` numbers lie in a stream, for :func:`numbers`: ``ceil(count / 2)``, int64."""
    # One 64-bit word serves two elements: its bits 63..40 and 31..8.
    return torch.arange((count + 1) // 2, device=device, dtype=torch.int64).mul_(_GAMMA)


def numbers(states: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) of the streams that begin at ``states`` (B,): two a word, (B, 2 * words), float32.

    Tensors in, tensors out, no Python state: it can be compiled. (The offsets come from outside since a compiler would
    work them out in integers without end, where these wrap.)
    """
    words = states[:, None] + offsets[None]
    scratch = torch.empty_like(words)
    _mix_(words, scratch)
    pairs = torch.empty((*words.shape, 2), dtype=torch.float32, device=words.device)
    pairs[..., 0] = _shift_right(words, 40, scratch)
    pairs[..., 1] = _shift_right(words, 8, scratch).bitwise_and_(_LOW_24)
    return pairs.mul_(2.0**-24).reshape(len(states), -1)


def uniform(
    shape: Sequence[int],
    generator: torch.Generator | SliceGenerator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Uniform float32 numbers in [0, 1) of ``shape`` on ``device``, from torch's or a slice generator."""
    # Asked by what it can do: MONAI Label imports this module twice, so its classes exist twice.
    if generator is not None and hasattr(generator, "rand"):
        return generator.rand(shape).to(device)
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def normal(
    shape: Sequence[int],
    generator: torch.Generator | SliceGenerator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Standard normal float32 numbers of ``shape`` on ``device``, from torch's or a slice generator."""
    if generator is not None and hasattr(generator, "randn"):
        return generator.randn(shape).to(device)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)
