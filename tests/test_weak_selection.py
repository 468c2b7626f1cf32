import numpy as np
import pytest

from scripts.weak_selection import choose_cosine_threshold, choose_guidance_strength, choose_max_differences


def study(seed, gap=0.004):
    rng = np.random.default_rng(seed)
    diseased = np.array([0] * 60 + [1] * 40)
    return np.where(diseased == 1, rng.normal(0.99 - gap, 0.002, 100), rng.normal(0.99, 0.001, 100)), diseased


@pytest.mark.parametrize("seed", range(5))
def test_threshold_equals_the_slow_one(seed):
    cosines, diseased = study(seed)
    best = None
    for quantile in np.linspace(0.005, 0.095, 100):
        c = np.quantile(cosines[diseased == 0], quantile)
        errors = sum(v > c for v in cosines[diseased == 1]) + sum(v < c for v in cosines[diseased == 0])
        if best is None or errors < best[1]:
            best = (c, errors)
    found = choose_cosine_threshold(cosines, diseased)
    assert (found.threshold, found.errors) == pytest.approx(best)
    assert found.accuracy == pytest.approx(1 - best[1] / 100)


def test_threshold_is_a_low_quantile_of_the_healthy_whatever_the_diseased_are():
    cosines, diseased = study(0, gap=-0.1)
    threshold = choose_cosine_threshold(cosines, diseased).threshold
    healthy = cosines[diseased == 0]
    assert healthy.min() < threshold < np.quantile(healthy, 0.1)


def test_max_difference_is_of_the_diseased():
    peaks = np.array([[9.0, 0.1], [1.0, 0.3], [2.0, 0.2]])
    assert choose_max_differences(peaks, np.array([0, 1, 1])).tolist() == [2.0, 0.3]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [([0.90, 0.95, 0.941, 0.93], 2.0), ([0.95, 0.9, 0.8, 0.9406], 3.0), ([0.9, 0.8, 0.7, 0.6], 0.5)],
)
def test_strength_is_the_largest_within_99_percent(accuracies, expected):
    assert choose_guidance_strength([0.5, 1.0, 2.0, 3.0], accuracies) == expected
    assert choose_guidance_strength([3.0, 2.0, 1.0, 0.5], accuracies[::-1]) == expected


@pytest.mark.parametrize(("labels", "only"), [([0, 0, 0], "healthy"), ([1, 1, 1], "diseased")])
def test_one_class_is_refused(labels, only):
    for choose, values in ((choose_cosine_threshold, np.ones(3)), (choose_max_differences, np.ones((3, 2)))):
        with pytest.raises(ValueError, match=f"images of both classes are needed, all 3 are {only}"):
            choose(values, np.array(labels))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="cosines: one for each image label is needed"):
        choose_cosine_threshold(np.ones(3), np.array([0, 1]))
    with pytest.raises(ValueError, match="peak_differences: finite values are needed, 1 are not"):
        choose_max_differences(np.array([[1.0], [np.nan]]), np.array([0, 1]))
    with pytest.raises(ValueError, match="strengths: as many as accuracies"):
        choose_guidance_strength([1.0, 2.0], [0.5])
    with pytest.raises(ValueError, match="tolerance must lie in"):
        choose_guidance_strength([1.0], [0.5], 0.0)
