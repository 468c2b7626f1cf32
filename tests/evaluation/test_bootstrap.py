from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.evaluation.bootstrap import interval, paired_difference, resamples, weighted_mean, weighted_sd


def test_resamples_draw_as_many_subjects_as_there_are():
    drawn = resamples(7, 300)
    assert drawn.shape == (300, 7)
    assert np.issubdtype(drawn.dtype, np.integer)
    assert drawn.min() == 0
    assert (drawn.sum(axis=1) == 7).all()


def test_resamples_draw_with_replacement_and_evenly():
    drawn = resamples(5, 20000)
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.03)
    # binomial of 5 draws with a chance of 1/5
    np.testing.assert_allclose(drawn.var(axis=0), 0.8, atol=0.05)


def test_resamples_depend_on_the_seed_alone():
    np.testing.assert_array_equal(resamples(6, 50, seed=3), resamples(6, 50, seed=3))
    assert not np.array_equal(resamples(6, 50, seed=3), resamples(6, 50, seed=4))
    assert resamples(6).shape == (1000, 6)


def test_one_subject_is_always_drawn_once():
    assert resamples(1, 5).tolist() == [[1]] * 5


def test_interval_is_the_percentiles():
    values = np.random.default_rng(0).permutation(np.arange(1001))
    assert interval(values) == (pytest.approx(25), pytest.approx(975))
    assert interval(values, 0.5) == (pytest.approx(250), pytest.approx(750))


def test_interval_of_what_is_finite():
    values = np.concatenate([np.arange(101), np.full(50, np.nan), np.full(51, np.inf)])
    assert interval(values) == (pytest.approx(2.5), pytest.approx(97.5))
    assert all(map(math.isnan, interval(np.append(values, np.nan))))
    assert all(map(math.isnan, interval(np.array([]))))
    assert all(map(math.isnan, interval(np.full(3, np.nan))))
    assert all(type(end) is float for end in interval(values))


def test_interval_covers_the_mean_of_a_normal_distribution():
    rng, weights = np.random.default_rng(0), resamples(40, 400)
    covered = 0
    for _ in range(500):
        means = weighted_mean(rng.normal(3, 2, 40), np.arange(40), weights)
        low, high = interval(means)
        covered += low <= 3 <= high
    assert 0.90 <= covered / 500 <= 0.98


def test_paired_difference_uses_the_pairs():
    weights, rng = resamples(30, 1000), np.random.default_rng(0)
    shared, groups = rng.normal(0, 10, 30), np.arange(30)
    a = weighted_mean(shared + 1 + rng.normal(0, 0.5, 30), groups, weights)
    b = weighted_mean(shared, groups, weights)
    result = paired_difference(a, b)
    assert (result["low"], result["high"]) == interval(a - b)
    assert 0.5 < result["low"] < 1 < result["high"] < 1.5
    assert result["p_value"] == pytest.approx(1 / 1000)
    # the other way round
    other = paired_difference(b, a)
    assert (other["low"], other["high"]) == (pytest.approx(-result["high"]), pytest.approx(-result["low"]))
    assert other["p_value"] == result["p_value"]


def test_paired_difference_of_the_same_is_1():
    assert paired_difference(np.arange(50), np.arange(50)) == {"low": 0.0, "high": 0.0, "p_value": 1.0}


@pytest.mark.parametrize(
    ("below", "zero", "p_value"), [(10, 0, 0.2), (0, 10, 0.2), (5, 5, 0.2), (90, 0, 0.2), (50, 0, 1)]
)
def test_p_value_is_twice_the_smaller_side(below, zero, p_value):
    difference = np.concatenate([np.full(below, -1.0), np.zeros(zero), np.ones(100 - below - zero)])
    assert paired_difference(difference, np.zeros(100))["p_value"] == pytest.approx(p_value)


def test_p_value_without_a_difference_on_one_side():
    assert paired_difference(np.ones(200), np.zeros(200))["p_value"] == 1 / 200


def test_differences_that_are_not_defined_are_left_out():
    a = np.concatenate([np.full(60, np.nan), np.full(20, np.inf), np.full(80, 1.0)])
    b = np.concatenate([np.zeros(60), np.full(20, np.inf), np.zeros(80)])
    assert paired_difference(a, b) == {"low": 1.0, "high": 1.0, "p_value": 1 / 80}
    assert all(map(math.isnan, paired_difference(a[:-1], b[:-1]).values()))


def items() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of 20 items, two of them NaN, of 6 subjects, one of which has none; resamples and the sample itself."""
    rng = np.random.default_rng(0)
    values, groups = rng.normal(1000, 3, 20), rng.integers(0, 5, 20)
    values[[3, 11]] = np.nan
    return values, groups, np.concatenate([np.ones((1, 6), dtype=int), resamples(6, 40)])


@pytest.mark.parametrize(
    ("function", "reference"), [(weighted_mean, np.mean), (weighted_sd, lambda values: np.std(values, ddof=1))]
)
def test_weights_equal_repeated_items(function, reference):
    values, groups, weights = items()
    result = function(values, groups, weights)
    assert result.shape == (41,)
    for value, row in zip(result, weights, strict=True):
        repeated = [v for v, g in zip(values, groups, strict=True) for _ in range(row[g]) if not math.isnan(v)]
        assert value == pytest.approx(reference(repeated), rel=1e-9)


def test_mean_and_deviation_of_nothing():
    weights = np.array([[2, 0], [0, 2], [1, 1]])
    values, groups = np.array([4.0, np.nan]), np.array([0, 1])
    np.testing.assert_array_equal(weighted_mean(values, groups, weights), [4, np.nan, 4])
    np.testing.assert_array_equal(weighted_sd(values, groups, weights), [0, np.nan, np.nan])
    assert np.isnan(weighted_mean(np.array([]), np.array([]), weights)).all()
    assert np.isnan(weighted_sd(np.array([]), np.array([]), weights)).all()


def test_infinite_items_count_only_where_they_are_drawn():
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    values, groups = np.array([1.0, 3.0, np.inf, 5.0]), np.array([0, 0, 1, 1])
    np.testing.assert_array_equal(weighted_mean(values, groups, weights), [np.inf, 2, np.inf])
    np.testing.assert_allclose(weighted_sd(values, groups, weights), [np.nan, np.sqrt(4 / 3), np.nan])


def test_deviation_does_not_depend_on_the_mean():
    values, groups, weights = np.random.default_rng(0).integers(0, 9, 12), np.arange(12), resamples(12, 20)
    expected = weighted_sd(values, groups, weights)
    np.testing.assert_allclose(weighted_sd(values + 1e10, groups, weights), expected, rtol=1e-6)


def test_deviation_of_one_item_drawn_often_is_zero():
    values = np.random.default_rng(0).normal(size=200)
    np.testing.assert_allclose(weighted_sd(values, np.arange(200), 7 * np.eye(200)), 0, atol=1e-6)


WEIGHTS = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resamples(0), "subjects.*0"),
        (lambda: resamples(3, 0), "count.*0"),
        (lambda: interval([1, 2], 0), "level.*0"),
        (lambda: interval([1, 2], 1), "level.*1"),
        (lambda: paired_difference([1, 2], [1]), r"a and b.*\(2,\).*\(1,\)"),
        (lambda: weighted_mean([1.0], [0, 1], WEIGHTS), r"groups.*\(1,\), \(2,\)"),
        (lambda: weighted_mean([1.0], [0], np.ones(3)), r"weights.*\(3,\)"),
        (lambda: weighted_mean([1.0], [3], WEIGHTS), r"groups.*\[0, 3\).*3"),
        (lambda: weighted_sd([1.0], [-1], WEIGHTS), r"groups.*\[0, 3\).*-1"),
        (lambda: weighted_sd([1.0], [0.0], WEIGHTS), "groups.*float64"),
        (lambda: weighted_mean([-np.inf], [0], WEIGHTS), "values.*-inf.*1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
