"""Rules for thresholds against counts of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scripts.evaluation.bins import Bins
from scripts.evaluation.thresholds import (
    above,
    crossfitted,
    papers_rule,
    patient_folds,
    rate_thresholds,
    threshold_for_rate,
)

BINS = Bins()


def scores(seed: int, count: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 0.1, count).astype(np.float32)


def test_above_is_the_border_of_a_bin():
    values = scores(0)
    binned = BINS.index(values)
    for index in (0, int(binned.min()), int(np.median(binned)), int(binned.max()), BINS.count - 1):
        np.testing.assert_array_equal(values > above(BINS, index), binned >= index)
    # One past the last bin: nothing exceeds it, and it is a number that files can hold.
    assert np.isfinite(above(BINS, BINS.count)) and not (np.float32(3e38) > above(BINS, BINS.count))


@pytest.mark.parametrize("rate", [0, 0.001, 0.01, 0.3, 1])
def test_threshold_for_rate_is_the_lowest_that_keeps_it(rate):
    values = scores(1)
    threshold = threshold_for_rate(BINS, BINS.histogram(values), rate)
    assert np.mean(values > threshold) <= rate
    if rate < 1:
        # A bin lower, more pixels than wanted would exceed it.
        lower = above(BINS, int(BINS.index(np.float32(threshold))))
        assert np.mean(values > np.float32(lower)) > rate
        assert threshold == pytest.approx(np.quantile(values, 1 - rate), rel=2**-7)


def test_threshold_without_pixels_is_none():
    assert np.isnan(threshold_for_rate(BINS, np.zeros(BINS.count), 0.01))


def test_folds_keep_patients_together_and_are_even():
    patients = [f"p{i % 7}" for i in range(20)]
    for seed in range(5):
        folds = patient_folds(patients, seed)
        by_patient = {p: {f for q, f in zip(patients, folds.tolist(), strict=True) if q == p} for p in patients}
        assert all(len(f) == 1 for f in by_patient.values())
        sizes = np.bincount([next(iter(f)) for f in by_patient.values()])
        assert sorted(sizes.tolist()) == [3, 4]
    drawn = {tuple(patient_folds(patients, seed)) for seed in range(5)}
    assert len(drawn) > 1
    np.testing.assert_array_equal(patient_folds(patients, 3), patient_folds(patients, 3))
    # Who else is in the list, in which order, does not matter.
    np.testing.assert_array_equal(patient_folds(patients[::-1], 3), patient_folds(patients, 3)[::-1])
    assert np.bincount(patient_folds(patients, 0, folds=3)).sum() == 20
    with pytest.raises(ValueError, match="folds must be 2 or more, got 1"):
        patient_folds(patients, folds=1)


def test_crossfitted_thresholds_come_from_the_other_folds():
    groups = [scores(i) * (1 + i) for i in range(4)]
    counts = np.stack([BINS.histogram(g) for g in groups])
    folds = np.array([0, 1, 0, 1])
    result = crossfitted(BINS, counts, folds, 0.05)
    for i, others in enumerate(([1, 3], [0, 2], [1, 3], [0, 2])):
        values = np.concatenate([groups[j] for j in others])
        assert result[i] == threshold_for_rate(BINS, BINS.histogram(values), 0.05)
    assert result[0] != result[1]
    # Without other patients, or without their healthy slices, there is none.
    assert np.isnan(crossfitted(BINS, counts[:1], np.array([0]), 0.05)).all()
    assert np.isnan(crossfitted(BINS, counts * [[1], [0], [1], [0]], folds, 0.05)).tolist() == [
        True,
        False,
        True,
        False,
    ]


def literal_rule(raw: np.ndarray, median_size: int) -> np.ndarray:
    """The paper's words for one slice: clip, rescale to [0, 1], median, cut at 0.5."""
    low, high = np.percentile(raw, 1), np.percentile(raw, 99)
    rescaled = (np.clip(raw, low, high) - low) / (high - low)
    return ndimage.median_filter(rescaled, size=median_size, mode="nearest") > 0.5


@pytest.mark.parametrize("median_size", [1, 3, 5])
def test_papers_rule_equals_its_words(median_size):
    rng = np.random.default_rng(0)
    raw = rng.gamma(1.0, 0.1, (40, 30, 6)) + 0.5 * rng.random(6)
    raw[10:20, 5:15, 2] += 0.6
    thresholds = papers_rule(raw)
    assert thresholds.shape == (6,)
    for k in range(6):
        smooth = ndimage.median_filter(raw[..., k], size=median_size, mode="nearest")
        np.testing.assert_array_equal(smooth > thresholds[k], literal_rule(raw[..., k], median_size))
    # Every slice has positives, which is what the rule is known for.
    assert ((raw > thresholds).sum(axis=(0, 1)) > 0).all()


def test_papers_rule_of_a_flat_map_finds_nothing():
    raw = np.zeros((40, 30, 3), dtype=np.float32)
    raw[..., 1] = 0.7
    raw[3, 3, 2] = 9
    np.testing.assert_array_equal(papers_rule(raw), [np.inf] * 3)
    assert papers_rule(raw[..., :0]).shape == (0,)


def test_rate_thresholds_have_these_shares_of_false_positives():
    values, rates = scores(2), (0.001, 0.01, 0.1)
    thresholds = rate_thresholds(BINS, BINS.histogram(values), rates)
    assert thresholds.tolist() == [threshold_for_rate(BINS, BINS.histogram(values), rate) for rate in rates]
    assert (np.diff(thresholds) < 0).all()
    # Rates that lead to one threshold are one point; without lesion-free pixels all of a map counts.
    assert len(rate_thresholds(BINS, BINS.histogram(values[:10]), (0.001, 0.01, 0.05))) == 1
    assert rate_thresholds(BINS, np.zeros(BINS.count), rates).tolist() == [0]
