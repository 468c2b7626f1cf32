"""Batch normalisation over the rows of all processes, on any device.

``torch.nn.SyncBatchNorm`` does the same on GPUs only.
"""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from torch import nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum of every process's tensor; its gradient is the sum of every process's gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> Any:
        return idist.all_reduce(tensor.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return idist.all_reduce(gradients[0].clone())


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` whose means and variances in training are those of all processes' rows together."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (B, c, H, W); B may differ among processes."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = idist.all_reduce(float(values.numel() // values.shape[1]))
        mean = self._total(values) / count
        centred = values - mean[:, None, None]
        variance = self._total(centred.square()) / count
        self._follow(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = torch.rsqrt(variance + self.eps)
        scale, shift = (scale, 0.0) if self.weight is None else (scale * self.weight, self.bias[:, None, None])
        return (centred * scale[:, None, None] + shift).to(input.dtype)

    @staticmethod
    def _total(values: torch.Tensor) -> torch.Tensor:
        return _SumOverProcesses.apply(values.sum(dim=(0, 2, 3)))

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics, as ``BatchNorm2d`` does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Put :class:`SyncedBatchNorm2d` in place of every ``BatchNorm2d`` within ``network``, with the same parameters."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _synced(child))


def _synced(norm: nn.BatchNorm2d) -> SyncedBatchNorm2d:
    other = SyncedBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    # The very same tensors: optimizers hold them already.
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(other, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(other, name, buffer)
    return other.train(norm.training)
