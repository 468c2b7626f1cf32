"""Image classes as the networks see them: healthy, diseased, and a third that says nothing.

A network that is conditioned on the class gets ``class_labels``, which are whole numbers (B,), or, where an image lies
between the classes, weights of them (B, classes).
"""

from __future__ import annotations

import torch
from torch import nn

HEALTHY, DISEASED = 0, 1
NULL = 2
"""The class of a unit whose class is not told."""


class ClassEmbedding(nn.Embedding):
    """One vector a class; that of :data:`NULL` is zero and stays so.

    Args:
        num_embeddings: rows of the table: 2, or 3 where the null class has one.
        embedding_dim: length of a vector.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx=NULL if num_embeddings > NULL else None)

    def forward(self, class_labels: torch.Tensor) -> torch.Tensor:
        """Vectors (B, embedding_dim) of classes (B,), or sums of them weighted by (B, k), k at most the classes."""
        if class_labels.is_floating_point():
            return class_labels @ self.weight[: class_labels.shape[1]]
        return super().forward(class_labels)


def classes(label: int, count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """``count`` units of one class, (count,)."""
    return torch.full((count,), label, dtype=torch.int64, device=device)


def mixed_classes(share: float, count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Units that are diseased by ``share`` and healthy by the rest, (count, 2)."""
    return torch.tensor([[1 - share, share]], device=device).expand(count, 2)
