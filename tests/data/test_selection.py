from __future__ import annotations

import pytest
import torch

from scripts.data.selection import SliceSelector, slices_to_volume, volume_to_slices


def volume_with_shares(*shares: float) -> torch.Tensor:
    """Volume (2, 10, 10, D) in which ``shares[d]`` of slice d is above 0; the channels take turns, never both."""
    volume = torch.zeros(2, 100, len(shares))
    for d, share in enumerate(shares):
        for pixel in range(round(share * 100)):
            volume[pixel % 2, pixel, d] = 0.5
    return volume.reshape(2, 10, 10, -1)


def test_every_slice_by_default():
    indices = SliceSelector()(torch.zeros(2, 4, 4, 5))
    assert indices.dtype == torch.int64
    assert indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("slice_range", "selected"),
    [
        ((0, 5), [0, 1, 2, 3, 4]),
        ((1, 3), [1, 2]),
        ([4, 5], [4]),
        ((3, 100), [3, 4]),
        ((5, 7), []),
        ((80, 128), []),
    ],
)
def test_range_is_half_open_and_cut_at_the_volume(slice_range, selected):
    assert SliceSelector(slice_range)(torch.zeros(1, 4, 4, 5)).tolist() == selected


@pytest.mark.parametrize(
    ("min_foreground", "selected"),
    [(0.0, [0, 1, 2, 3]), (0.01, [1, 2, 3]), (0.1, [1, 2, 3]), (0.25, [2, 3]), (0.26, [3]), (1.0, [3])],
)
def test_foreground_counts_pixels_with_any_channel(min_foreground, selected):
    volume = volume_with_shares(0, 0.1, 0.25, 1)
    assert SliceSelector(min_foreground=min_foreground)(volume).tolist() == selected


def test_negative_intensities_are_background():
    volume = -volume_with_shares(0.5, 1)
    assert SliceSelector(min_foreground=0.1)(volume).tolist() == []


def test_both_rules_must_hold():
    volume = volume_with_shares(1, 0, 1, 1, 0, 1)
    assert SliceSelector((1, 5), 0.5)(volume).tolist() == [2, 3]


@pytest.mark.parametrize("slice_range", [(3, 3), (4, 2), (-1, 2), (1,), (1, 2, 3)])
def test_bad_ranges_are_named(slice_range):
    with pytest.raises(ValueError, match="slice_range.*" + str(slice_range).replace("(", r"\(").replace(")", r"\)")):
        SliceSelector(slice_range)


@pytest.mark.parametrize("min_foreground", [-0.1, 1.5, float("nan")])
def test_bad_foreground_is_named(min_foreground):
    with pytest.raises(ValueError, match=f"min_foreground.*{min_foreground}"):
        SliceSelector(min_foreground=min_foreground)


def test_slices_are_those_of_the_last_axis():
    volume = torch.rand(2, 3, 4, 6)
    slices = volume_to_slices(volume, torch.tensor([5, 0, 2]))
    assert slices.shape == (3, 2, 3, 4)
    for row, d in enumerate((5, 0, 2)):
        assert torch.equal(slices[row], volume[..., d])


def test_there_and_back():
    volume, background = torch.rand(2, 3, 4, 6), torch.rand(2, 3, 4, 6)
    untouched = background.clone()
    indices = torch.tensor([4, 1])
    joined = slices_to_volume(volume_to_slices(volume, indices), indices, background)
    for d in range(6):
        assert torch.equal(joined[..., d], volume[..., d] if d in (1, 4) else background[..., d])
    assert torch.equal(background, untouched)


def test_background_decides_the_type():
    joined = slices_to_volume(torch.ones(1, 1, 2, 2, dtype=torch.float64), torch.tensor([1]), torch.zeros(1, 2, 2, 3))
    assert joined.dtype == torch.float32
    assert joined.sum(dim=(0, 1, 2)).tolist() == [0, 4, 0]


def test_no_slice():
    background = torch.rand(1, 2, 2, 3)
    none = torch.tensor([], dtype=torch.int64)
    assert volume_to_slices(background, none).shape == (0, 1, 2, 2)
    assert torch.equal(slices_to_volume(torch.empty(0, 1, 2, 2), none, background), background)
