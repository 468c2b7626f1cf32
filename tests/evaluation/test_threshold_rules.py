import numpy as np
import pytest

from scripts.evaluation.threshold_rules import dynamic_quantile_thresholds, dynamic_quantiles, otsu_thresholds


def slow_otsu(values, bins=256):
    """The middle of the bin whose cut parts the two classes' means the most."""
    counts, edges = np.histogram(values, bins)
    middles = (edges[:-1] + edges[1:]) / 2
    best, threshold = -1.0, None
    for n in range(bins - 1):
        below, above = counts[: n + 1].sum(), counts[n + 1 :].sum()
        if not below or not above:
            continue
        means = [
            (c * m).sum() / c.sum()
            for c, m in ((counts[: n + 1], middles[: n + 1]), (counts[n + 1 :], middles[n + 1 :]))
        ]
        between = float(below) * float(above) * (means[0] - means[1]) ** 2
        if between > best * (1 + 1e-6):
            best, threshold = between, middles[n]
    return threshold


def test_otsu_equals_the_slow_one_slice_by_slice():
    rng = np.random.default_rng(0)
    maps = np.stack(
        [
            np.where(rng.random((20, 20)) < share, rng.normal(1, 0.2, (20, 20)), rng.normal(0, 0.2, (20, 20)))
            for share in (0.1, 0.5)
        ]
    )
    found = otsu_thresholds(maps)
    assert found.shape == (2,)
    assert found == pytest.approx([slow_otsu(m) for m in maps], abs=1e-6)
    assert found[0] != found[1]


def test_otsu_does_not_see_a_change_of_units():
    maps = np.random.default_rng(1).random((1, 30, 30)) ** 3
    assert ((maps > otsu_thresholds(maps)[0]) == (5 * maps - 2 > otsu_thresholds(5 * maps - 2)[0])).all()


def test_otsu_of_a_flat_map_finds_nothing():
    maps = np.full((1, 4, 4), 0.3)
    assert not (maps > otsu_thresholds(maps)[0]).any()


def test_quantile_falls_with_the_difference():
    index, quantiles = dynamic_quantiles(np.array([[0.0, 0.5], [1.0, 2.0], [3.0, 0.25]]), [2.0, 1.0])
    assert index.tolist() == [[0, 50], [50, 100], [100, 25]]
    assert np.allclose(quantiles, [[0.98, 0.94], [0.94, 0.90], [0.90, 0.96]])


def test_index_is_cut_off_in_single_precision():
    """As published: .53 and .59 are the two that lose one."""
    shares = np.arange(101)[:, None] / 100
    index, _ = dynamic_quantiles(shares, [1.0])
    assert {n: int(i) for n, i in enumerate(index[:, 0]) if i != n} == {53: 52, 59: 58}


def test_threshold_is_the_mean_of_the_channels_quantiles():
    rng = np.random.default_rng(2)
    maps, peaks = rng.random((3, 2, 11, 13)), rng.random((3, 2))
    found = dynamic_quantile_thresholds(maps, peaks, [0.8, 1.0])
    _, quantiles = dynamic_quantiles(peaks, [0.8, 1.0])
    for n in range(3):
        cuts = []
        for c in range(2):
            ordered = np.sort(maps[n, c].ravel())
            place = quantiles[n, c] * (ordered.size - 1)
            low = int(place)
            cuts.append(ordered[low] + (place - low) * (ordered[low + 1] - ordered[low]))
        assert found[n] == pytest.approx(np.mean(cuts))


@pytest.mark.parametrize("constants", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, 1.0, 1.0]])
def test_constants_that_do_not_fit_are_refused(constants):
    with pytest.raises(ValueError, match="max_differences: one above 0 for each of the channels"):
        dynamic_quantiles(np.zeros((4, 2)), constants)
