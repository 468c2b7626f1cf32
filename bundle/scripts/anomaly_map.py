"""The scores under the name that configurations of version 0.4 and before use; they are in :mod:`scripts.scores`."""

from .scores import (
    absolute_residual,
    bright_sequence,
    mask_density,
    product,
    signed_residual,
    squared_residual,
    structural_dissimilarity,
    weighted_sum,
)

__all__ = [
    "absolute_residual",
    "bright_sequence",
    "mask_density",
    "product",
    "signed_residual",
    "squared_residual",
    "structural_dissimilarity",
    "weighted_sum",
]
