import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from scripts.mahalanobis import SMALLEST, covariance_factors, mahalanobis_map


def example(count=6, channels=2, size=7, seed=0):
    """An image and restorations whose values vary together, each by another amount."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, 3)) @ rng.normal(size=(3, channels * size * size))
    restorations = 0.5 + 0.1 * common + 0.05 * rng.normal(size=common.shape)
    restorations = restorations.reshape(count, channels, size, size)
    image = restorations.mean(axis=0) + 0.2 * rng.normal(size=restorations.shape[1:])
    return torch.from_numpy(image), torch.from_numpy(restorations)


def terms(image, restorations, covariance, inside):
    """d_i (C^-1 d)_i from the whole matrix, 0 outside."""
    x, runs = image.numpy().ravel()[inside], restorations.numpy().reshape(len(restorations), -1)[:, inside]
    difference = x - runs.mean(axis=0)
    result = np.zeros(image.numel())
    result[inside] = difference * np.linalg.solve(covariance(runs), difference)
    return result.reshape(image.shape)


def ridged(ridge):
    return lambda runs: np.cov(runs, rowvar=False) + ridge * np.eye(runs.shape[1])


def ledoit_wolf(runs):
    return LedoitWolf().fit(runs).covariance_


@pytest.mark.parametrize(("ridge", "covariance"), [(0.01, ridged(0.01)), (0.3, ridged(0.3)), (None, ledoit_wolf)])
@pytest.mark.parametrize("count", [3, 6, 40])
@pytest.mark.parametrize("masked", [False, True])
def test_map_is_that_of_the_whole_covariance(ridge, covariance, count, masked):
    image, restorations = example(count)
    foreground = torch.ones(1, 7, 7, dtype=torch.bool)
    if masked:
        foreground[..., :3] = False
    inside = foreground.expand_as(image).numpy().ravel()
    expected = terms(image, restorations, covariance, inside).sum(axis=0)
    actual = mahalanobis_map(image, restorations, foreground if masked else None, ridge)
    assert actual.shape == (1, 7, 7) and actual.dtype == torch.float32
    np.testing.assert_allclose(actual[0].numpy(), np.sqrt(expected.clip(0)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [3, 5, 60])
def test_shrinkage_is_scikit_learns(count):
    """Beyond that the terms of the map add up to its squared distance."""
    image, restorations = example(count, channels=1, size=5)
    runs = restorations.numpy().reshape(count, -1)
    fitted = LedoitWolf().fit(runs)
    deviations = torch.from_numpy(runs - runs.mean(axis=0))
    gram = deviations @ deviations.T
    factor, added = covariance_factors(gram, deviations.square().sum(dim=1), runs.shape[1], None)
    ours = factor * deviations.T @ deviations + added * torch.eye(runs.shape[1])
    np.testing.assert_allclose(ours.numpy(), fitted.covariance_, rtol=1e-6, atol=1e-9)
    assert 1 - factor * count == pytest.approx(fitted.shrinkage_, rel=1e-9)
    distance = fitted.mahalanobis(image.numpy().reshape(1, -1))[0]
    whole = terms(image, restorations, lambda _: fitted.covariance_, np.ones(25, bool)).sum()
    assert whole == pytest.approx(distance)
    assert mahalanobis_map(image, restorations, None, None).square().sum() >= distance * (1 - 1e-5)


def test_a_term_below_zero_becomes_zero():
    """Two values that vary together, variances 1 and covariance 0.9: the second's difference is less than expected."""
    restorations = torch.tensor([[1.0, 0.9], [-1.0, -0.9], [0.0, 0.19**0.5], [0.0, -(0.19**0.5)]]).reshape(4, 1, 1, 2)
    restorations *= 1.5**0.5
    image = torch.tensor([1.0, 0.2]).reshape(1, 1, 2)
    # C^-1 d = [1 - 0.9 0.2, 0.2 - 0.9] / (1 - 0.81)
    actual = mahalanobis_map(image, restorations, ridge=1e-8)
    assert torch.allclose(actual, torch.tensor([[[(0.82 / 0.19) ** 0.5, 0.0]]]), atol=1e-4)


def test_where_restorations_vary_a_difference_counts_less():
    restorations = torch.full((10, 1, 4, 4), 0.5)
    restorations[:, 0, :2] += torch.randn(10, 2, 4, generator=torch.Generator().manual_seed(0))
    away = mahalanobis_map(torch.ones(1, 4, 4), restorations)[0]
    assert away[2:].min() > 1.5 * away[:2].max()


def test_restorations_without_variance():
    image, restorations = torch.rand(1, 3, 3), torch.full((4, 1, 3, 3), 0.25)
    ridge = mahalanobis_map(image, restorations, ridge=0.04)
    assert torch.allclose(ridge, (image - 0.25).abs() / 0.2, atol=1e-5)
    shrunk = mahalanobis_map(image, restorations, ridge=None)
    assert torch.allclose(shrunk, (image - 0.25).abs() / SMALLEST**0.5, rtol=1e-4)


def test_a_restoration_that_is_not_a_number_shows_everywhere():
    image, restorations = example()
    restorations[1, 0, 2, 2] = torch.nan
    assert mahalanobis_map(image, restorations).isnan().all()


@pytest.mark.parametrize(("count", "ridge"), [(1, 0.01), (3, 0.0), (3, -1.0)])
def test_bad_arguments_are_refused(count, ridge):
    with pytest.raises(ValueError, match=f"at least 2 restorations and ridge > 0, got {count} and {ridge}"):
        mahalanobis_map(torch.zeros(1, 2, 2), torch.zeros(count, 1, 2, 2), ridge=ridge)


def test_a_real_size_is_quick_and_exact_enough():
    """p = 200,000: no p x p matrix can be in the way. A batch's autocast must not round the system."""
    generator = torch.Generator().manual_seed(0)
    restorations = torch.rand(8, 3, 256, 256, generator=generator)
    image = torch.rand(3, 256, 256, generator=generator)
    plain = mahalanobis_map(image, restorations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mahalanobis_map(image, restorations), plain)
    assert plain.isfinite().all() and plain.max() > 0
