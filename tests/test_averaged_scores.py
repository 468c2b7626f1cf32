import pytest
import torch

from scripts.averaged_scores import mahalanobis_distance
from scripts.smoothing import gaussian_smooth


def test_the_map_is_handed_on():
    maps = torch.rand(2, 1, 12, 12)
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(mahalanobis_distance(images, images, {"mahalanobis": maps}), maps)
    smooth = mahalanobis_distance(images, images, {"mahalanobis": maps}, sigma=1.0)
    assert torch.equal(smooth, gaussian_smooth(maps, 1.0)) and not torch.equal(smooth, maps)


@pytest.mark.parametrize(("evidence", "there"), [(None, "none"), ({}, "none"), ({"kl": torch.zeros(1)}, "kl")])
def test_missing_evidence_is_named(evidence, there):
    with pytest.raises(ValueError, match=f"needs the evidence 'mahalanobis'.*there is {there}"):
        mahalanobis_distance(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), evidence)
