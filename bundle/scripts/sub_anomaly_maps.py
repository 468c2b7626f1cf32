"""What two predictions of x_0 along a forward process say: curves, an end step and a map (arXiv 2404.15683).

At each step t there are the prediction of a healthy image, xh_t, and one without guidance, x0_t:

    MSE_h = mean over pixels of (xh_t - x)^2      MSE_0 = mean of (x0_t - x)^2      M = mean of (xh_t - x0_t)^2
    SAM_t = (xh_t - x)^2, the sub-anomaly map     t_e = argmax of M over t, the first

and the map is the mean of SAM_t over t = 0 .. t_e - 1, for each channel by itself. t_e is known only at the end, so
what belongs to the largest M so far is kept beside running sums: memory does not grow with the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class SubAnomalyMaps:
    """Told the predictions step by step, (B, c, *size) each, says maps and curves, all of it channel by channel.

    Args:
        end_step_only: SAM at t_e - 1 in place of the mean.
        interval: mean over every ``interval``-th step of 0 .. t_e - 1, and t_e, in place of all of 0 .. t_e - 1.

    Where t_e is 0 there is no step before it; SAM_0 stands for them.
    """

    end_step_only: bool = False
    interval: int | None = None
    _curves: list[torch.Tensor] = field(default_factory=list)
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def update(
        self,
        image: torch.Tensor,
        healthy: torch.Tensor,
        reference: torch.Tensor,
        anomaly: torch.Tensor | None = None,
    ) -> None:
        """One step more.

        Args:
            image: x, (B, c, *size).
            healthy: xh_t.
            reference: x0_t.
            anomaly: in place of SAM_t.
        """
        step = len(self._curves)
        anomaly = (healthy - image).square() if anomaly is None else anomaly
        pairs = ((healthy, image), (reference, image), (healthy, reference))
        curves = torch.stack([(a - b).square().flatten(2).mean(dim=2) for a, b in pairs])
        now = {"anomaly": anomaly, "healthy": healthy, "peak": curves[2], "end_step": torch.full_like(curves[2], step)}
        found = now if not step else {**now, **self._before(now, step)}
        # A NaN is no peak: it shows in the curves, and so in the cosine.
        is_peak = torch.ones_like(curves[2], dtype=torch.bool) if not step else curves[2] > self._kept["peak"]
        for name, value in found.items():
            rises = is_peak.reshape(*is_peak.shape, *[1] * (value.ndim - 2))
            self._kept[name] = torch.where(rises, value, self._kept[name]) if step else value.clone()
        self._add(now, step)
        self._curves.append(curves)

    def _before(self, now: dict[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        """What the map and the healthy image are if t_e is this ``step``."""
        if self.end_step_only:
            return {name: self._sums[name] for name in ("anomaly", "healthy")}
        if self.interval is None:
            return {name: self._sums[name] / step for name in ("anomaly", "healthy")}
        count = -(-step // self.interval) + 1
        return {name: (self._sums[name] + now[name]) / count for name in ("anomaly", "healthy")}

    def _add(self, now: dict[str, torch.Tensor], step: int) -> None:
        for name in ("anomaly", "healthy"):
            if self.end_step_only or not step:
                self._sums[name] = now[name].clone()
            elif step % (self.interval or 1) == 0:
                self._sums[name] += now[name]

    @property
    def maps(self) -> torch.Tensor:
        """AAM, (B, c, *size), at least 0."""
        return self._kept["anomaly"]

    @property
    def healthy(self) -> torch.Tensor:
        """The predictions xh_t of the steps that the maps are made of, averaged likewise, (B, c, *size)."""
        return self._kept["healthy"]

    @property
    def end_steps(self) -> torch.Tensor:
        """t_e, (B, c), whole numbers."""
        return self._kept["end_step"].long()

    @property
    def peaks(self) -> torch.Tensor:
        """Largest M of all steps, (B, c); NaN where one is."""
        return self.curves[2].amax(dim=1)

    @property
    def curves(self) -> torch.Tensor:
        """MSE_h, MSE_0 and M, (3, B, steps, c)."""
        return torch.stack(self._curves, dim=2)


def cosine_of_errors(healthy_errors: torch.Tensor, reference_errors: torch.Tensor) -> torch.Tensor:
    """Cosine over t of (mean_c MSE_h, mean_c MSE_0), (B,): 1 where guidance changes nothing.

    Args:
        healthy_errors: MSE_h, (B, steps, c), of the channels that count.
        reference_errors: MSE_0, the same shape.
    """
    return torch.cosine_similarity(healthy_errors.mean(dim=2), reference_errors.mean(dim=2), dim=1, eps=1e-6)
