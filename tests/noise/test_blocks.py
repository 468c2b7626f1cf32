import math

import pytest
import torch

from scripts.noise import Draws
from scripts.noise.blocks import SIZE_PROBABILITIES, SIZES, block_mask, brain_places, draw_block_mask


@pytest.mark.parametrize(("block", "size"), [((1, 1), (4, 6)), ((2, 3), (4, 6)), ((4, 2), (8, 8)), ((4, 6), (4, 6))])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
def test_mask_by_brute_force(block, size, ratio):
    blocks = size[0] // block[0] * (size[1] // block[1])
    orders = torch.stack([torch.randperm(blocks, generator=torch.Generator().manual_seed(s)) for s in range(3)])
    mask = block_mask(orders, [ratio, 0.0, ratio], block, size)
    assert mask.shape == (3, 1, *size) and mask.dtype == torch.float32
    for row, own in enumerate([ratio, 0.0, ratio]):
        kept = set(orders[row, : math.floor(blocks * (1 - own))].tolist())
        for y in range(size[0]):
            for x in range(size[1]):
                number = y // block[0] * (size[1] // block[1]) + x // block[1]
                assert mask[row, 0, y, x] == float(number in kept)


@pytest.mark.parametrize(("block", "count"), [((3, 1), 16), ((1, 1), 15), ((2, 2), 16)])
def test_blocks_that_do_not_fill_the_latent_are_refused(block, count):
    with pytest.raises(
        ValueError, match=f"blocks of {block[0]} x {block[1]} must fill 4 x 4 places.*orders of {count}"
    ):
        block_mask(torch.arange(count)[None], [0.5], block, (4, 4))


def sizes_of(mask):
    """Largest size of block of a mask that both its axes allow."""

    def fits(size, axis):
        return all(len(part.unique(dim=axis).movedim(axis, 0)) == 1 for part in mask.split(size, dim=axis))

    return tuple(max(size for size in SIZES if fits(size, axis)) for axis in (2, 3))


def test_draws_have_the_sizes_ratios_and_places_they_should():
    torch.manual_seed(0)
    count, masks = 250, []
    for _ in range(count):
        masks.append(draw_block_mask(Draws(), 4, (32, 32), max_ratio=0.4))
    sizes = torch.tensor([sizes_of(mask) for mask in masks]).double()
    for axis in (0, 1):
        for size, probability in zip(SIZES, SIZE_PROBABILITIES, strict=True):
            share = (sizes[:, axis] == size).double().mean().item()
            assert share == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / count))
    # Rows and columns are drawn apart.
    assert abs(torch.corrcoef(sizes.T)[0, 1].item()) < 5 / math.sqrt(count)
    # Of blocks of one place, the share of noised ones is uniform in [0, 0.4), place by place alike.
    fine = torch.cat([mask for mask, own in zip(masks, sizes.tolist(), strict=True) if math.prod(own) == 1])
    noised = 1 - fine.mean(dim=(1, 2, 3))
    assert len(noised) > 20 and noised.max() < 0.4 + 1 / 1024
    assert noised.mean().item() == pytest.approx(0.2, abs=5 * 0.4 / math.sqrt(12 * len(noised)))
    places = 1 - fine.mean(dim=0)
    assert places.std() < 5 * math.sqrt(0.2 * 0.8 / len(fine))


def test_one_probability_alone_decides_the_size():
    for index, size in enumerate(SIZES):
        probabilities = [float(i == index) for i in range(len(SIZES))]
        torch.manual_seed(index)
        mask = draw_block_mask(Draws(), 4, (16, 16), 1.0, probabilities)
        assert 0 < mask.mean() < 1 and sizes_of(mask) == (size, size)


def test_draws_replay():
    def drawn(seed):
        torch.manual_seed(seed)
        return draw_block_mask(Draws(), 3, (16, 16))

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))


@pytest.mark.parametrize(("size", "latent"), [((64, 96), (8, 12)), ((64, 96), (4, 6)), ((32, 32), (8, 8))])
def test_brain_places_by_brute_force(size, latent):
    generator = torch.Generator().manual_seed(0)
    foreground = (
        torch.rand((3, 1, *size), generator=generator) < torch.rand((3, 1, 1, 1), generator=generator) * 0.2 + 0.85
    )
    places = brain_places(foreground, latent, block=16, share=0.9)
    assert places.shape == (3, 1, *latent) and places.dtype == torch.bool and 0 < places.float().mean() < 1
    step = [n // m for n, m in zip(size, latent, strict=True)]
    for row in range(3):
        for y in range(latent[0]):
            for x in range(latent[1]):
                top, left = y * step[0] // 16 * 16, x * step[1] // 16 * 16
                share = foreground[row, 0, top : top + 16, left : left + 16].double().mean()
                assert places[row, 0, y, x] == (share >= 0.9)


def test_a_share_of_just_enough_is_brain():
    foreground = torch.ones(1, 1, 20, 20)
    foreground[0, 0, :2, :5] = 0
    for share, expected in ((0.9, True), (0.91, False)):
        assert brain_places(foreground[..., :10, :10], (1, 1), block=10, share=share).item() is expected


@pytest.mark.parametrize(("size", "latent"), [((40, 32), (8, 8)), ((32, 32), (3, 8))])
def test_sizes_that_do_not_fit_are_refused(size, latent):
    with pytest.raises(ValueError, match=r"blocks of 16 pixels must fill images.*got images of .*latents of"):
        brain_places(torch.ones(1, 1, *size), latent)
