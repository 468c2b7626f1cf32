"""Which times sampling visits, whatever the noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def even_timesteps(
    num_train_timesteps: int, num_inference_steps: int | None = None, noise_level: int | None = None
) -> list[int]:
    """An even subset of the times 1..L that always contains L, as zero-based timesteps, the noisiest first.

    Args:
        num_train_timesteps: T.
        num_inference_steps: how many, 1..L; ``None`` means all L.
        noise_level: L, the number of noise steps to undo, 1..T; ``None`` means T.

    Raises:
        ValueError: when one is outside its range.
    """
    level = num_train_timesteps if noise_level is None else int(noise_level)
    if not 1 <= level <= num_train_timesteps or level != (noise_level or level):
        raise ValueError(f"noise_level must lie in [1, {num_train_timesteps}], got {noise_level}.")
    steps = level if num_inference_steps is None else int(num_inference_steps)
    if not 1 <= steps <= level or steps != (num_inference_steps or steps):
        raise ValueError(f"num_inference_steps must lie in [1, noise_level={level}], got {num_inference_steps}.")
    # Integer arithmetic keeps the subset the same on every machine.
    return [(level * (steps - i) + steps // 2) // steps - 1 for i in range(steps)]


def checked_timesteps(timesteps: Sequence[int], num_train_timesteps: int) -> list[int]:
    """An own grid of zero-based timesteps.

    Raises:
        ValueError: when it is empty, does not fall from step to step, or leaves [0, T - 1].
    """
    times = [int(t) for t in timesteps]
    falls = all(later > earlier for later, earlier in pairwise(times))
    if not times or not falls or times[0] >= num_train_timesteps or times[-1] < 0:
        raise ValueError(f"timesteps must fall from step to step within [0, {num_train_timesteps - 1}], got {times}.")
    return times
