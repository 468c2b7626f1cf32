"""The even grid of times 0, s, 2 s, ... of respaced sampling, "ddimN" (Dhariwal and Nichol 2021, arXiv 2105.05233)."""

from __future__ import annotations

from .checks import outside


def grid_problems(num_train_timesteps: int, noise_level: int, num_inference_steps: int | None) -> list[str | None]:
    """What is wrong with a grid of ``num_inference_steps`` times below L = ``noise_level``, in words.

    L lies in 1..T - 1, so that level L has a timestep of its own, and is a multiple of the number of times.
    """
    problems = [outside("noise_level", noise_level, 1, num_train_timesteps - 1, whole=True)]
    if problems[0] or num_inference_steps is None:
        return problems
    problems.append(outside("num_inference_steps", num_inference_steps, 1, noise_level, whole=True))
    if problems[1] is None and noise_level % num_inference_steps:
        problems.append(f"num_inference_steps must divide noise_level {noise_level}, got {num_inference_steps}")
    return problems


def grid_levels(noise_level: int, num_inference_steps: int | None) -> list[int]:
    """0, s, ..., L: the timesteps of the grid below L, and L itself."""
    stride = grid_stride(noise_level, num_inference_steps)
    return list(range(0, int(noise_level) + 1, stride))


def grid_stride(noise_level: int, num_inference_steps: int | None) -> int:
    """s = L / N."""
    return int(noise_level) // int(num_inference_steps or noise_level)
