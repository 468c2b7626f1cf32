import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts.median import mirrored_median


@pytest.mark.parametrize("size", [3, 5])
def test_equals_scipy_s(size):
    maps = torch.rand(2, 3, 9, 7)
    found = mirrored_median(maps, size)
    assert found.shape == maps.shape
    for n in range(2):
        for c in range(3):
            expected = ndimage.median_filter(maps[n, c].numpy(), size, mode="mirror")
            assert np.array_equal(found[n, c].numpy(), expected)
