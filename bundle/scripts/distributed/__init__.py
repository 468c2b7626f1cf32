"""Several processes as one: what the overlays ``multi_gpu_*.json`` put in place of single-process parts."""

from .batch_shard import BatchShard, shard_loader
from .parallel import data_parallel
from .process_group import ProcessGroup
from .shared_failures import SharedFailures
from .shared_results import SharedResultFolder

__all__ = [
    "BatchShard",
    "ProcessGroup",
    "SharedFailures",
    "SharedResultFolder",
    "data_parallel",
    "shard_loader",
]
