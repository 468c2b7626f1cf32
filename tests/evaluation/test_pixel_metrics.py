from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from scripts.evaluation.bins import Bins
from scripts.evaluation.pixel_metrics import (
    aupro,
    auroc,
    average_precision,
    best_dice,
    curve,
    fpr_at_sensitivity,
    prevalence,
    quantile_index,
)

BINS = Bins()


def scored_pixels(seed: int = 0, count: int = 4000, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Scores, float32 with many zeros and some negative values, and lesion labels."""
    rng = np.random.default_rng(seed)
    label = rng.random(count) < share
    scores = rng.normal(size=count) * 0.3 + 0.4 * label
    scores[rng.random(count) < 0.4] = 0
    return scores.astype(np.float32), label


def histograms(scores: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return BINS.histogram(scores[label]), BINS.histogram(scores[~label])


def small_histograms(seed: int, bins: int = 7, top: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, top, bins), rng.integers(0, top, bins)


def as_scores(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each pixel, and its label."""
    bins = np.arange(len(positive))
    scores = np.concatenate([np.repeat(bins, positive), np.repeat(bins, negative)])
    return scores, np.arange(len(scores)) < positive.sum()


def sklearn_fpr_at(label, scores, sensitivity):
    fpr, tpr, _ = roc_curve(label, scores, drop_intermediate=False)
    return fpr[tpr >= sensitivity].min()


@pytest.mark.parametrize("seed", range(4))
def test_ranking_metrics_of_quantised_scores_equal_sklearn(seed):
    scores, label = scored_pixels(seed)
    quantised, pair = BINS.index(scores), histograms(scores, label)
    assert average_precision(*pair) == pytest.approx(average_precision_score(label, quantised), abs=1e-12)
    assert auroc(*pair) == pytest.approx(roc_auc_score(label, quantised), abs=1e-12)
    for sensitivity in (0.3, 0.95, 1.0):
        assert fpr_at_sensitivity(*pair, sensitivity) == pytest.approx(
            sklearn_fpr_at(label, quantised, sensitivity), abs=1e-12
        )


@pytest.mark.parametrize("seed", range(4))
def test_ranking_metrics_of_raw_scores_are_close_to_sklearn(seed):
    scores, label = scored_pixels(seed)
    pair = histograms(scores, label)
    assert average_precision(*pair) == pytest.approx(average_precision_score(label, scores), abs=1e-3)
    assert auroc(*pair) == pytest.approx(roc_auc_score(label, scores), abs=1e-3)
    assert fpr_at_sensitivity(*pair) == pytest.approx(sklearn_fpr_at(label, scores, 0.95), abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_ranking_metrics_of_few_pixels_with_many_ties(seed):
    positive, negative = small_histograms(seed)
    scores, label = as_scores(positive, negative)
    assert average_precision(positive, negative) == pytest.approx(average_precision_score(label, scores), abs=1e-12)
    assert auroc(positive, negative) == pytest.approx(roc_auc_score(label, scores), abs=1e-12)
    for sensitivity in (0.2, 0.5, 0.95):
        assert fpr_at_sensitivity(positive, negative, sensitivity) == pytest.approx(
            sklearn_fpr_at(label, scores, sensitivity), abs=1e-12
        )


def test_sensitivity_that_is_reached_exactly_counts():
    positive, negative = np.array([1, 0, 19]), np.array([5, 3, 2])
    assert fpr_at_sensitivity(positive, negative, 0.95) == pytest.approx(0.2)
    assert fpr_at_sensitivity(positive, negative, 0.951) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(20))
def test_best_dice_is_the_best_f1_of_all_thresholds(seed):
    positive, negative = small_histograms(seed)
    scores, label = as_scores(positive, negative)
    dice = [f1_score(label, scores >= i) for i in range(len(positive))]
    best, index = best_dice(positive, negative)
    assert best == pytest.approx(max(dice), abs=1e-12)
    assert index == max(i for i, d in enumerate(dice) if d > max(dice) - 1e-9)


def test_best_dice_is_reached_by_the_threshold_of_its_bin():
    scores, label = scored_pixels(5)
    best, index = best_dice(*histograms(scores, label))
    assert f1_score(label, scores >= BINS.lower[index]) == pytest.approx(best, abs=1e-12)


def test_best_dice_prefers_the_highest_threshold():
    best, index = best_dice([0, 2, 0, 0, 0], [3, 0, 0, 0, 0])
    assert (best, index) == (1.0, 1)
    # one of two pixels alone, or both with two false ones
    best, index = best_dice([1, 0, 1], [2, 0, 0])
    assert (best, index) == (pytest.approx(2 / 3), 2)


def slow_aupro(scores, label, regions, max_fpr):
    """Area by a loop over thresholds, as the definition reads."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        predicted = scores >= threshold
        overlaps = [predicted[regions == r].mean() for r in np.unique(regions[regions > 0])]
        points.append((predicted[~label].mean(), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= max_fpr:
            break
        if x1 > max_fpr:
            x1, y1 = max_fpr, y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / max_fpr


def region_histogram(scores: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, int]:
    numbers = np.unique(regions[regions > 0])
    shares = [BINS.histogram(scores[regions == r]) / np.count_nonzero(regions == r) for r in numbers]
    return np.sum(shares, axis=0), len(numbers)


@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_a_loop_over_thresholds(seed, max_fpr):
    scores, label = scored_pixels(seed, count=600, share=0.15)
    regions = np.where(label, np.random.default_rng(seed).choice([1, 2, 5], label.size, p=[0.8, 0.15, 0.05]), 0)
    shares, count = region_histogram(scores, regions)
    area = aupro(shares, count, BINS.histogram(scores[~label]), max_fpr)
    assert area == pytest.approx(slow_aupro(BINS.index(scores), label, regions, max_fpr), abs=1e-12)


def test_aupro_closed_forms():
    # all lesions above everything else; chance; nothing found before max_fpr
    assert aupro([0, 2], 2, [10, 0], 0.3) == pytest.approx(1)
    assert aupro([1, 1], 2, [5, 5], 0.3) == pytest.approx(0.15)
    assert aupro([2, 0], 2, [0, 10], 0.3) == pytest.approx(0)
    # small and large lesions count the same
    assert aupro([1, 1], 2, [10, 0], 1.0) == pytest.approx(0.75)


def test_aupro_up_to_1_of_one_lesion_is_auroc():
    scores, label = scored_pixels(3)
    positive, negative = histograms(scores, label)
    assert aupro(positive / positive.sum(), 1, negative, 1.0) == pytest.approx(auroc(positive, negative), abs=1e-12)


def test_prevalence():
    assert prevalence([1, 0, 2], [4, 5, 0]) == pytest.approx(0.25)
    assert np.isnan(prevalence([0, 0], [0, 0]))
    assert prevalence([0, 0], [0, 3]) == 0


METRICS = [average_precision, auroc, fpr_at_sensitivity, prevalence, lambda p, n: best_dice(p, n)[0]]


@pytest.mark.parametrize("metric", METRICS)
def test_weights_of_subjects_equal_repeated_subjects(metric):
    subjects = [histograms(*scored_pixels(seed, 300, 0.2)) for seed in range(3)]
    positive, negative = (np.stack(h) for h in zip(*subjects, strict=True))
    weights = np.array([[1, 1, 1], [3, 0, 0], [0, 2, 1]])
    values = metric(weights @ positive, weights @ negative)
    assert values.shape == (3,)
    assert values.dtype == np.float64
    for value, row in zip(values, weights, strict=True):
        drawn = [scored_pixels(seed, 300, 0.2) for seed in range(3) for _ in range(row[seed])]
        pooled = histograms(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))
        assert value == metric(*pooled)


def test_leading_dimensions_of_the_others():
    rng = np.random.default_rng(0)
    shares, negative = rng.random((2, 3, 9)), rng.integers(0, 9, (2, 3, 9))
    regions = shares.sum(axis=-1) + 1
    area, index = aupro(shares, regions, negative), quantile_index(negative, 0.4)
    bests, bins = best_dice(negative[::-1], negative)
    assert area.shape == index.shape == bests.shape == bins.shape == (2, 3)
    for place in np.ndindex(2, 3):
        assert area[place] == aupro(shares[place], regions[place], negative[place])
        assert index[place] == quantile_index(negative[place], 0.4)
        assert (bests[place], bins[place]) == best_dice(negative[::-1][place], negative[place])


def test_without_lesion_pixels():
    positive, negative = np.zeros((2, 4)), np.array([[0, 1, 5, 2]] * 2)
    positive[1] = [0, 0, 1, 1]
    for metric in (average_precision, auroc, fpr_at_sensitivity):
        assert np.isnan(metric(positive, negative)).tolist() == [True, False]
    dice, index = best_dice(positive, negative)
    assert np.isnan(dice).tolist() == [True, False]
    assert index.tolist() == [-1, 3]
    assert np.isnan(aupro(positive, [0, 1], negative)).tolist() == [True, False]


def test_all_lesion():
    positive, negative = np.array([0, 1, 2, 0]), np.zeros(4)
    assert average_precision(positive, negative) == 1
    assert best_dice(positive, negative) == (1, 1)
    assert prevalence(positive, negative) == 1
    for value in (auroc(positive, negative), fpr_at_sensitivity(positive, negative), aupro(positive, 3, negative)):
        assert np.isnan(value)


def test_constant_map():
    positive, negative = np.array([0, 3, 0]), np.array([0, 9, 0])
    assert average_precision(positive, negative) == pytest.approx(0.25)
    assert auroc(positive, negative) == 0.5
    assert fpr_at_sensitivity(positive, negative) == 1
    assert best_dice(positive, negative) == (pytest.approx(0.4), 1)
    assert aupro(positive / 3, 1, negative, 0.3) == pytest.approx(0.15)


def test_one_pixel():
    assert average_precision([0, 1], [0, 0]) == 1
    assert np.isnan(auroc([0, 1], [0, 0]))
    assert np.isnan(average_precision([0, 0], [0, 1]))


def test_histograms_are_not_changed():
    positive, negative = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    for metric in METRICS:
        metric(positive, negative)
    assert (positive.tolist(), negative.tolist()) == ([1, 2], [3, 4])


def test_curve_with_room_for_all_points_equals_sklearn():
    positive, negative = small_histograms(1, bins=30)
    scores, label = as_scores(positive, negative)
    drawn = curve(positive, negative, points=100000)
    fpr, tpr, _ = roc_curve(label, scores, drop_intermediate=False)
    np.testing.assert_allclose(drawn["false_positive_rate"], fpr[1:])
    np.testing.assert_allclose(drawn["recall"], tpr[1:])
    precision, _, _ = precision_recall_curve(label, scores)
    np.testing.assert_allclose(drawn["precision"], precision[:-1][::-1])


@pytest.mark.parametrize("points", [2, 10, 200])
def test_curve_is_thinned_to_points_of_the_curve_with_its_ends(points):
    pair = histograms(*scored_pixels(2))
    full, thin = curve(*pair, points=10**6), curve(*pair, points=points)
    rows, all_rows = (list(zip(*c.values(), strict=True)) for c in (thin, full))
    assert 2 <= len(rows) <= points < len(all_rows)
    assert set(rows) <= set(all_rows)
    assert (rows[0], rows[-1]) == (all_rows[0], all_rows[-1])
    assert sorted(thin["recall"]) == thin["recall"]
    assert all(isinstance(v, float) for v in thin["precision"])


def test_thinned_curve_has_no_large_gaps_but_those_of_the_map():
    scores, label = scored_pixels(2)
    scores = scores + np.random.default_rng(0).random(scores.size).astype(np.float32)
    thin = curve(*histograms(scores, label), points=50)
    assert np.diff(np.add(thin["recall"], thin["false_positive_rate"])).max() < 2 * 2 / 50


def test_curve_without_one_kind_of_pixel_is_empty():
    empty = {"recall": [], "precision": [], "false_positive_rate": []}
    assert curve([0, 0], [1, 2]) == empty
    assert curve([1, 2], [0, 0]) == empty


@pytest.mark.parametrize(
    ("rate", "index"), [(0, 4), (0.05, 4), (0.1, 3), (0.35, 3), (0.39, 3), (0.4, 2), (0.99, 2), (1, 0)]
)
def test_quantile_index(rate, index):
    # shares at or above each bin: 1, 1, 0.4, 0.1, 0
    counts = np.array([0, 6, 3, 1, 0])
    assert quantile_index(counts, rate) == index


def test_quantile_index_one_past_the_last_bin():
    assert quantile_index([1, 1], 0.4) == 2
    assert quantile_index([0, 3], 0) == 2


def test_quantile_index_of_nothing():
    assert quantile_index([[0, 0], [1, 0]], 0.5).tolist() == [-1, 1]


def test_quantile_index_holds_for_the_scores():
    scores, _ = scored_pixels(7)
    for rate in (0.001, 0.01, 0.05, 0.2):
        index = quantile_index(BINS.histogram(scores), rate)
        assert np.mean(scores >= BINS.lower[index]) <= rate
        assert np.mean(scores >= BINS.lower[index - 1]) > rate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([1, 2], [1, 2, 3]), r"same shape.*\(2,\).*\(3,\)"),
        (lambda: auroc(1, 2), "same shape"),
        (lambda: fpr_at_sensitivity([1], [1], 0), "sensitivity.*0"),
        (lambda: fpr_at_sensitivity([1], [1], 1.5), "sensitivity.*1.5"),
        (lambda: aupro([1], 1, [1], 0), "max_fpr.*0"),
        (lambda: quantile_index([1], -0.1), "rate.*-0.1"),
        (lambda: quantile_index([1], float("nan")), "rate.*nan"),
        (lambda: curve([1], [1], 1), "points.*1"),
        (lambda: curve([[1]], [[1]]), r"\(bins,\).*\(1, 1\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
