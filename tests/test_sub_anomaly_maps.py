"""Running sums against all steps kept."""

import pytest
import torch

from scripts.sub_anomaly_maps import SubAnomalyMaps, cosine_of_errors


def steps(count=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 2, 4, 4, generator=generator)
    healthy, reference = torch.rand(2, count, 3, 2, 4, 4, generator=generator)
    return image, healthy, reference


def found(image, healthy, reference, **options):
    maps = SubAnomalyMaps(**options)
    for h, r in zip(healthy, reference, strict=True):
        maps.update(image, h, r)
    return maps


def slow(image, healthy, reference, choose):
    """Each image and channel by itself; ``choose`` gives the steps that the map is made of."""
    maps, ends = torch.zeros_like(image), torch.zeros(image.shape[:2], dtype=torch.long)
    for n in range(len(image)):
        for c in range(image.shape[1]):
            curve = [float((h[n, c] - r[n, c]).square().mean()) for h, r in zip(healthy, reference, strict=True)]
            end = curve.index(max(curve))
            chosen = choose(end) or [0]
            ends[n, c] = end
            maps[n, c] = torch.stack([(healthy[t, n, c] - image[n, c]).square() for t in chosen]).mean(dim=0)
    return maps, ends


@pytest.mark.parametrize(
    ("options", "choose"),
    [
        ({}, lambda end: list(range(end))),
        ({"end_step_only": True}, lambda end: [end - 1] if end else []),
        ({"interval": 1}, lambda end: list(range(end + 1))),
        ({"interval": 3}, lambda end: [*range(0, end, 3), end]),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_maps_equal_the_slow_ones(options, choose, seed):
    given = steps(seed=seed)
    maps = found(*given, **options)
    expected, ends = slow(*given, choose)
    assert torch.equal(maps.end_steps, ends)
    assert torch.allclose(maps.maps, expected, atol=1e-6)
    assert len(ends.unique()) > 1


def test_first_of_equal_differences_and_no_step_before_the_first():
    image = torch.zeros(1, 1, 2, 2)
    healthy = torch.stack([torch.full_like(image, v) for v in (3.0, 1.0, 3.0)])
    maps = found(image, healthy, torch.zeros_like(healthy))
    assert maps.end_steps.tolist() == [[0]]
    assert torch.equal(maps.maps, torch.full_like(image, 9.0))
    later = found(image, healthy[[1, 0, 2]], torch.zeros_like(healthy))
    assert later.end_steps.tolist() == [[1]]
    assert torch.equal(later.maps, torch.ones_like(image))
    assert torch.equal(later.healthy, torch.ones_like(image))


def test_curves_and_peaks():
    image, healthy, reference = steps()
    maps = found(image, healthy, reference)
    assert maps.curves.shape == (3, 3, 9, 2)
    assert torch.allclose(maps.curves[0, 1, 4], (healthy[4, 1] - image[1]).square().mean(dim=(1, 2)))
    assert torch.allclose(maps.curves[1, 2, 8], (reference[8, 2] - image[2]).square().mean(dim=(1, 2)))
    assert torch.allclose(maps.peaks, (healthy - reference).square().mean(dim=(3, 4)).amax(dim=0))


def test_another_map_in_the_place_of_the_sub_anomaly_maps():
    image, healthy, reference = steps()
    own, usual = SubAnomalyMaps(), found(image, healthy, reference)
    for h, r in zip(healthy, reference, strict=True):
        own.update(image, h, r, anomaly=7 * (h - image).square())
    assert torch.equal(own.end_steps, usual.end_steps)
    assert torch.allclose(own.maps, 7 * usual.maps, rtol=1e-5)


def test_what_was_found_does_not_change_with_the_inputs():
    """Predictions may be overwritten by their maker."""
    image, healthy, reference = steps()
    buffer, maps = torch.empty_like(image), SubAnomalyMaps()
    for h, r in zip(healthy, reference, strict=True):
        maps.update(image, buffer.copy_(h), r)
    buffer.zero_()
    usual = found(image, healthy, reference)
    assert torch.equal(maps.maps, usual.maps) and torch.equal(maps.healthy, usual.healthy)


def test_nan_shows():
    image, healthy, reference = steps()
    healthy[3, 1] = float("nan")
    maps = found(image, healthy, reference)
    assert maps.peaks.isnan().any(dim=1).tolist() == [False, True, False]
    assert cosine_of_errors(*maps.curves[:2]).isnan().tolist() == [False, True, False]


def test_cosine():
    a, b = torch.rand(2, 5, 3).double(), torch.rand(2, 5, 3).double()
    found_ = cosine_of_errors(a, b)
    for n in range(2):
        u, v = a[n].mean(dim=1), b[n].mean(dim=1)
        assert float(found_[n]) == pytest.approx(float((u * v).sum() / (u.norm() * v.norm())))
