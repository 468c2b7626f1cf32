"""Masks of blocks: which places of a latent stay clean while the others are noised (arXiv 2502.16943).

A mask is K, 1 where a place is kept and 0 where it is noised; the paper's M is 1 - K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .draws import Draws

SIZES = (1, 2, 4, 8)
"""Rows and columns of a block, in places of the latent."""

SIZE_PROBABILITIES = (0.2, 0.3, 0.3, 0.2)


def block_mask(
    orders: torch.Tensor, ratios: Sequence[float], block: tuple[int, int], size: Sequence[int]
) -> torch.Tensor:
    """Keep masks of blocks in a random order, of which the first are kept.

    Args:
        orders: a permutation of the G = (h / rows) (w / columns) blocks for each of the batch, (B, G), blocks counted
            row by row; the first floor(G (1 - ratio)) of them are kept.
        ratios: share of the blocks to be noised, for each of the batch, in [0, 1].
        block: rows and columns of a block.
        size: h and w of the latent, multiples of the block's.

    Returns:
        K in {0, 1}, (B, 1, h, w), float32.

    Raises:
        ValueError: when the size is no multiple of the block's, or ``orders`` are not of its G blocks.
    """
    (rows, columns), (height, width) = block, size
    grid = (height // rows, width // columns)
    if height % rows or width % columns or orders.shape[1] != math.prod(grid):
        raise ValueError(
            f"blocks of {rows} x {columns} must fill {height} x {width} places, each in the order once; "
            f"got orders of {orders.shape[1]}."
        )
    kept = [math.floor(orders.shape[1] * (1 - ratio)) for ratio in ratios]
    # Place i of the order is a block that stays where i is below the number kept.
    stays = torch.arange(orders.shape[1], device=orders.device) < torch.tensor(kept, device=orders.device)[:, None]
    mask = torch.zeros(orders.shape, device=orders.device).scatter_(1, orders, stays.float())
    blocks = mask.reshape(-1, 1, *grid)
    return blocks.repeat_interleave(rows, dim=2).repeat_interleave(columns, dim=3)


def draw_block_mask(
    draws: Draws,
    count: int,
    size: Sequence[int],
    max_ratio: float = 0.4,
    probabilities: Sequence[float] = SIZE_PROBABILITIES,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Keep masks of a batch: one size of block for all, a ratio and an order of blocks for each.

    Args:
        draws: source of all randomness.
        count: of the batch.
        size: h and w of the latent, multiples of the largest of :data:`SIZES` that can be drawn.
        max_ratio: ratios are uniform in [0, max_ratio).
        probabilities: of each of :data:`SIZES`, for rows and for columns alike.
        device: where the mask is wanted.

    Returns:
        K in {0, 1}, (count, 1, h, w), float32.
    """
    # Two whole numbers for the whole batch, the same in every process.
    ends = torch.tensor(list(probabilities), dtype=torch.float64).cumsum(0)
    thrown = (torch.tensor(draws.shared_integers(0, 2**24, 2), dtype=torch.float64) + 0.5) / 2**24 * ends[-1]
    rows, columns = (SIZES[int(i)] for i in torch.searchsorted(ends, thrown))
    blocks = (size[0] // rows) * (size[1] // columns)
    ratios = (draws.rand((count,), device) * max_ratio).tolist()
    orders = draws.rand((count, blocks), device).argsort(dim=1)
    return block_mask(orders, ratios, (rows, columns), size)


def brain_places(foreground: torch.Tensor, size: Sequence[int], block: int = 16, share: float = 0.9) -> torch.Tensor:
    """Places of a latent that lie well inside the brain; the others are never noised, neither border nor background.

    Args:
        foreground: where the brain is, (B, 1, H, W), boolean or in {0, 1}.
        size: h and w of the latent; H / block must divide h, and W / block w.
        block: side of the blocks of pixels that are looked at.
        share: of a block that must be brain.

    Returns:
        boolean, (B, 1, h, w).

    Raises:
        ValueError: when blocks do not fill the image, or places not the blocks.
    """
    grid = [n // block for n in foreground.shape[2:]]
    if any(n % block for n in foreground.shape[2:]) or any(n % g for n, g in zip(size, grid, strict=True)):
        raise ValueError(
            f"blocks of {block} pixels must fill images, and places of the latent blocks: "
            f"got images of {tuple(foreground.shape[2:])}, latents of {tuple(size)}."
        )
    # Counts are exact in float32, so that a share of just 0.9 is decided alike everywhere.
    brain = F.avg_pool2d(foreground.float(), block) * block**2 >= share * block**2
    return brain.repeat_interleave(size[0] // grid[0], dim=2).repeat_interleave(size[1] // grid[1], dim=3)
