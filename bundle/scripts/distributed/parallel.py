"""PyTorch's own data parallelism, through ignite."""

from __future__ import annotations

import ignite.distributed as idist
from torch import nn

from .batch_norm import synchronise_batch_norm


def data_parallel(network: nn.Module) -> nn.Module:
    """``network`` for a trainer of several processes: gradients are averaged while the backward pass goes on.

    ``DistributedDataParallel`` through ``ignite.distributed``. The parameters are shared with ``network``, whose state
    dict keeps its keys: checkpoints and moving averages take that, and do not tell how many processes there were. Batch
    normalisation, where there is any, becomes that of the whole batch, PyTorch's on GPUs and ours elsewhere.

    A network may be called several times before its backward pass, and be frozen for a while, as a discriminator is.

    Args:
        network: all of its parameters are used in a step.
    """
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        synchronise_batch_norm(network)
    wrapped: nn.Module = idist.auto_model(network)
    return wrapped
