from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from scripts.distributed import BatchShard
from scripts.noise import Draws
from scripts.noise.coarse import coarse_noise, draw_coarse_noise


def random_foreground(batch: int, *size: int) -> torch.Tensor:
    return torch.rand((batch, 1, *size), generator=torch.Generator().manual_seed(1)) > 0.3


def enlarged(nodes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear along one axis after the other, the first and last nodes on the first and last pixels."""
    for axis, count in enumerate(size):
        places = np.arange(count) * (nodes.shape[axis] - 1) / (count - 1)
        nodes = np.apply_along_axis(lambda line, x=places: np.interp(x, np.arange(len(line)), line), axis, nodes)
    return nodes


@pytest.mark.parametrize("shift", [(0, 0), (2, 5), (8, 12)])
def test_field_equals_loop(shift):
    size = (9, 13)
    noise, foreground = (
        torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(0)),
        random_foreground(2, *size),
    )
    field = coarse_noise(noise, shift, foreground)
    for b in range(2):
        for c in range(3):
            still = enlarged(noise[b, c].double().numpy(), size)
            for row in range(size[0]):
                for column in range(size[1]):
                    expected = still[(row - shift[0]) % size[0], (column - shift[1]) % size[1]]
                    expected *= float(foreground[b, 0, row, column])
                    assert field[b, c, row, column].item() == pytest.approx(expected, abs=1e-6)


def test_drawn_noise_has_the_deviation_at_every_node():
    """With as many nodes as pixels the field is the noise itself."""
    torch.manual_seed(0)
    values = draw_coarse_noise(2, torch.ones(64, 1, 24, 24), Draws(), std=0.3, resolution=24)
    assert values.shape == (64, 2, 24, 24)
    assert stats.kstest(values.flatten().numpy() / 0.3, "norm").pvalue > 0.01
    between_channels = np.corrcoef(values[:, 0].flatten(), values[:, 1].flatten())[0, 1]
    between_images = np.corrcoef(values[0].flatten(), values[1].flatten())[0, 1]
    assert abs(between_channels) < 0.02 and abs(between_images) < 0.1


def test_resolution_is_of_the_field_of_view():
    torch.manual_seed(0)
    field = draw_coarse_noise(1, torch.ones(1, 1, 33, 33), Draws(), resolution=3)[0, 0]
    # Three nodes, 16 pixels apart: straight lines between them, so second differences vanish but at the nodes.
    bends = field.diff(n=2, dim=0).abs().amax(dim=1) > 1e-5
    assert 1 <= bends.sum() <= 4


class OneNode(Draws):
    """Noise of which in every image one node is not 0, so that the field shows the shift."""

    def randn(self, shape, device=None):
        noise = torch.zeros(shape, device=device)
        noise[:, :, 0, 0] = 1
        return noise


def test_one_shift_for_the_batch_uniform_over_the_image():
    torch.manual_seed(0)
    size = 5  # of nodes and of pixels: a node is a pixel
    counts = np.zeros((size, size))
    for _ in range(2000):
        field = draw_coarse_noise(2, torch.ones(3, 1, size, size), OneNode(), std=1.0, resolution=size)
        place = int(field[0, 0].argmax())
        assert (field.flatten(2).argmax(dim=2) == place).all()
        assert field.sum() == 3 * 2
        counts[divmod(place, size)] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 0.01


def test_shifts_reach_over_all_rows_and_columns_of_an_oblong_image():
    ranges = []

    class Asked(Draws):
        def shared_integers(self, low, high, count):
            ranges.extend([(low, high)] * count)
            return [0] * count

    draw_coarse_noise(1, torch.ones(1, 1, 8, 12), Asked())
    assert ranges == [(0, 8), (0, 12)]


def test_shares_of_a_batch_are_the_batch():
    foreground = random_foreground(6, 8, 8)

    def drawn(shard: BatchShard | None, own: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return draw_coarse_noise(2, own, Draws(shard), resolution=4)

    whole = drawn(None, foreground)
    for rank in range(3):
        shard = BatchShard(SimpleNamespace(rank=rank, size=3), batch_size=6)
        assert torch.equal(drawn(shard, foreground[rank::3]), whole[rank::3])
