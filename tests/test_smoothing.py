import pytest
import torch
from scipy.ndimage import gaussian_filter

from scripts.smoothing import gaussian_smooth


@pytest.mark.parametrize("size", [(32, 48), (5, 9), (1, 20)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
def test_smoothing_is_scipys(size, sigma):
    maps = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    smooth = gaussian_smooth(maps, sigma)
    assert smooth.dtype == torch.float32
    for row in range(2):
        expected = torch.from_numpy(gaussian_filter(maps[row, 0].double().numpy(), sigma))
        assert torch.allclose(smooth[row, 0].double(), expected, atol=1e-7)


def test_no_sigma_no_smoothing_and_no_rounding_under_autocast():
    maps = torch.rand(2, 1, 16, 16)
    assert torch.equal(gaussian_smooth(maps, 0.0), maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gaussian_smooth(maps, 2.0)
    assert torch.equal(rounded, gaussian_smooth(maps, 2.0))
