"""What methods whose diffusion is of latents have in common."""

from __future__ import annotations

from ..schedulers import GaussianScheduler


def wrong_scheduler(scheduler: GaussianScheduler, prediction_type: str) -> list[str]:
    """What keeps a scheduler from latents, in words: they have no range that predictions could be clamped to.

    Args:
        scheduler: the noise process.
        prediction_type: what the method's network says.
    """
    problems = []
    if scheduler.prediction_type != prediction_type:
        problems.append(f"scheduler.prediction_type must be {prediction_type!r}, got {scheduler.prediction_type!r}")
    if scheduler.clip_range is not None:
        problems.append(f"scheduler.clip_range must be None for latents, got {scheduler.clip_range!r}")
    return problems
