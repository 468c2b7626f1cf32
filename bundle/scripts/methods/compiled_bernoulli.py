"""The same loop compiled: network, mask, posterior and noise of a step as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import nn

from ..noise import SliceGenerator, numbers, word_offsets
from ..schedulers import BernoulliScheduler
from .bit_masks import Step, logit, mask_share


class CompiledReverseSteps:
    """:func:`~scripts.methods.masked_bernoulli.masked_reverse_steps` through ``torch.compile``.

    All that changes from step to step comes in small tensors that are made before the loop, so one compiled function
    (in the modes with CUDA graphs: one recorded graph) serves every step, and the elementwise part becomes a few
    kernels. Batches smaller than the one before are filled up, since another size would be compiled anew, as
    larger ones are.

    The compiler may round differently, so results can differ from the plain loop's in single bits.

    Args:
        mode: of ``torch.compile``: ``default``, ``reduce-overhead`` (CUDA graphs), ``max-autotune``.
        backend: of ``torch.compile``.
    """

    def __init__(self, mode: str = "default", backend: str = "inductor") -> None:
        self.size = 0
        modes = mode if backend == "inductor" else None
        self.update: Callable[..., Step] = torch.compile(_update, backend=backend, dynamic=False, mode=modes)

    def __call__(
        self,
        scheduler: BernoulliScheduler,
        probability_threshold: float,
        denoiser: nn.Module,
        code: torch.Tensor,
        sample: torch.Tensor,
        streams: SliceGenerator,
    ) -> Iterator[Step]:
        """Arguments and results are those of the plain loop."""
        count, size = len(code), max(self.size, len(code))
        times, coefficients, starts = step_tables(scheduler, probability_threshold, streams)
        filler = size - count
        code, sample, starts = _fill(code, 0, filler), _fill(sample, 0, filler), _fill(starts, 1, filler)
        mask, offsets = torch.zeros_like(code, dtype=torch.bool), word_offsets(code[0].numel(), code.device)
        # Known to fit only when the first step has come through: a smaller batch after a failure is not filled up.
        self.size = 0
        for i in range(len(times)):
            timesteps = times[i].expand(size).contiguous()
            result = self.update(denoiser, sample, mask, code, timesteps, coefficients[i], starts[i], offsets)
            self.size = size
            # A replayed graph writes its results to the same place every time.
            sample, mask, share = (tensor.clone() for tensor in result)
            yield sample[:count], mask[:count], share[:count]


@lru_cache
def compiled_steps(mode: str) -> CompiledReverseSteps:
    """The compiled loop of a mode, made once: a search goes through many settings with the same steps."""
    return CompiledReverseSteps(mode)


def step_tables(
    scheduler: BernoulliScheduler, probability_threshold: float, streams: SliceGenerator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each step needs, on the streams' device.

    Returns:
        timesteps (steps,); the posterior's four coefficients and the threshold on logits (steps, 5), float32; the
        start of each slice's random stream (steps, B).
    """
    timesteps = scheduler.timesteps.tolist()
    earlier = [scheduler.previous_timestep(t) for t in timesteps]
    threshold = logit(probability_threshold)
    rows = [(*scheduler.posterior_coefficients(t, s), threshold) for t, s in zip(timesteps, earlier, strict=True)]
    device = streams.slice_indices.device
    return (
        torch.tensor(timesteps, device=device),
        torch.tensor(rows, dtype=torch.float32, device=device),
        streams.states([s + 1 for s in earlier]),
    )


def _update(
    denoiser: nn.Module,
    sample: torch.Tensor,
    mask: torch.Tensor,
    code: torch.Tensor,
    timesteps: torch.Tensor,
    coefficients: torch.Tensor,
    states: torch.Tensor,
    offsets: torch.Tensor,
) -> Step:
    """One step of Algorithm 1."""
    *posterior, threshold = coefficients.unbind()
    logits = denoiser(sample, timesteps=timesteps).float()
    # M_{t-1} = M_t OR (eps_hat > P)
    mask = mask | (logits > threshold)
    # z0_tilde = |z_t - eps_hat|;  z0' = M z0_tilde + (1 - M) z
    prediction = torch.where(mask, BernoulliScheduler.predict_original_sample(logits, sample), code)
    # z_{t-1} ~ B(theta_post(z_t, z0'))
    theta = BernoulliScheduler.posterior(sample, prediction, *posterior)
    uniform = numbers(states, offsets)[:, : code[0].numel()].reshape(code.shape)
    return (uniform < theta).to(sample.dtype), mask, mask_share(mask, logits)


def _fill(tensor: torch.Tensor, dim: int, count: int) -> torch.Tensor:
    """``count`` more entries along ``dim``, zero."""
    shape = list(tensor.shape)
    shape[dim] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim) if count else tensor
