from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from scripts.evaluation.image_metrics import classification, heights_differ, level_weights


def scored(seed: int = 0, count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and which items are diseased."""
    rng = np.random.default_rng(seed)
    diseased = rng.random(count) < 0.4
    return np.round(rng.normal(size=count) + diseased, 1), diseased


def slow_metrics(scores, diseased, weights):
    """All three by loops over pairs and thresholds."""
    pairs = [
        (weights[i] * weights[j], (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
        for i in np.flatnonzero(diseased)
        for j in np.flatnonzero(~diseased)
    ]
    sensitivities, auprc, last = [0.0], 0.0, 0.0
    for threshold in np.unique(scores[weights > 0])[::-1]:
        above = scores >= threshold
        recall = weights[above & diseased].sum() / weights[diseased].sum()
        auprc += (recall - last) * weights[above & diseased].sum() / weights[above].sum()
        last = recall
        if weights[~above & ~diseased].sum() / weights[~diseased].sum() >= 0.95 - 1e-9:
            sensitivities.append(recall)
    auroc = sum(w * won for w, won in pairs) / sum(w for w, _ in pairs)
    return {"auroc": auroc, "auprc": auprc, "sensitivity_at_95_specificity": max(sensitivities)}


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_loops(seed):
    scores, diseased = scored(seed)
    for weights in (None, np.random.default_rng(seed).integers(0, 4, 80), np.random.default_rng(seed).random(80)):
        expected = slow_metrics(scores, diseased, np.ones(80) if weights is None else weights)
        assert classification(scores, diseased, weights) == pytest.approx(expected, abs=1e-12)


def test_metrics_equal_sklearn():
    scores, diseased = scored(7)
    result = classification(scores, diseased)
    assert result["auroc"] == roc_auc_score(diseased, scores)
    assert result["auprc"] == average_precision_score(diseased, scores)
    assert 0 < result["sensitivity_at_95_specificity"] < 1


def test_weights_equal_repeated_items():
    scores, diseased = scored(1, 30)
    weights = np.random.default_rng(0).integers(0, 3, 30)
    repeated = classification(np.repeat(scores, weights), np.repeat(diseased, weights))
    assert classification(scores, diseased, weights) == pytest.approx(repeated, abs=1e-12)


@pytest.mark.parametrize(("healthy", "sensitivity"), [(20, 0.5), (19, 0.0), (100, 0.5), (40, 0.5)])
def test_sensitivity_at_a_specificity_of_exactly_95_percent(healthy, sensitivity):
    # one healthy item scores as high as half of the diseased: 19 of 20 are enough, 18 of 19 are not
    scores = np.concatenate([[2, -1], [2], np.zeros(healthy - 1)])
    diseased = np.arange(len(scores)) < 2
    result = classification(scores, diseased)
    assert result["sensitivity_at_95_specificity"] == sensitivity


def test_sensitivity_at_exact_specificity_with_weights_that_round():
    scores = np.concatenate([[2.0, 2.0], np.zeros(19), [0.0]])
    diseased = np.arange(22) == 0
    for weight in (0.1, 1 / 3, 0.7):
        result = classification(scores, diseased, np.full(22, weight))
        # 1 of 21 healthy ones
        assert result["sensitivity_at_95_specificity"] == 1
        assert classification(scores[:-1], diseased[:-1], np.full(21, weight))["sensitivity_at_95_specificity"] == 1


def test_points_on_a_straight_curve_are_thresholds_too():
    # one diseased and one healthy item at each of 40 scores
    result = classification(np.repeat(np.arange(40), 2), np.arange(80) % 2 == 0)
    assert result["sensitivity_at_95_specificity"] == pytest.approx(2 / 40)


def test_perfect_and_constant_scores():
    diseased = np.array([True, False, True, False, False])
    assert set(classification(diseased.astype(float), diseased).values()) == {1.0}
    constant = classification(np.ones(5), diseased)
    assert constant == {"auroc": 0.5, "auprc": pytest.approx(0.4), "sensitivity_at_95_specificity": 0.0}


@pytest.mark.parametrize(
    ("diseased", "weights"), [([True, True], None), ([False, False], None), ([True, False], [1, 0]), ([], None)]
)
def test_one_kind_only_is_not_defined(diseased, weights):
    result = classification(np.arange(len(diseased)), np.array(diseased, dtype=bool), weights)
    assert list(result) == ["auroc", "auprc", "sensitivity_at_95_specificity"]
    assert all(map(math.isnan, result.values()))


def test_same_heights_do_not_differ():
    rng = np.random.default_rng(0)
    found = [heights_differ(rng.random(400), rng.random(400) < 0.3)[0] for _ in range(50)]
    assert sum(found) <= 2


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_shifted_heights_differ(shift):
    rng = np.random.default_rng(0)
    diseased = rng.random(400) < 0.3
    heights = rng.normal(size=400) * 0.2 + shift * diseased
    differ, p_value, effect = heights_differ(heights, diseased)
    assert differ is True
    assert p_value < 1e-6
    a, b = heights[diseased], heights[~diseased]
    assert effect == pytest.approx((a.mean() - b.mean()) / np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2))
    assert np.sign(effect) == np.sign(shift)


def test_middle_against_both_ends_differs_though_means_are_equal():
    heights = np.concatenate([np.linspace(0.4, 0.6, 101), np.linspace(0, 0.3, 50), np.linspace(0.7, 1, 50)])
    differ, p_value, effect = heights_differ(heights, np.arange(201) < 101)
    assert differ
    assert p_value < 1e-6
    assert effect < -1


def test_tiny_effect_of_many_slices_does_not_count():
    rng = np.random.default_rng(0)
    diseased = rng.random(100000) < 0.5
    differ, p_value, effect = heights_differ(rng.normal(size=100000) + 0.1 * diseased, diseased)
    assert (differ, p_value < 0.01) == (False, True)
    assert effect == pytest.approx(0.1, abs=0.03)


def test_large_effect_of_few_slices_does_not_count():
    differ, p_value, effect = heights_differ(np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False]))
    assert (differ, p_value > 0.01) == (False, True)
    assert effect < -0.25


def test_heights_that_do_not_vary():
    diseased = np.arange(40) < 20
    assert heights_differ(np.full(40, 0.5), diseased) == (False, 1.0, 0.0)
    differ, _, effect = heights_differ(diseased.astype(float), diseased)
    assert (differ, abs(effect)) == (True, math.inf)


@pytest.mark.parametrize("diseased", [[True, False, False], [True, True, True], []])
def test_too_few_slices_to_compare(diseased):
    differ, p_value, effect = heights_differ(np.arange(len(diseased)), np.array(diseased, dtype=bool))
    assert differ is False
    assert math.isnan(p_value)
    assert math.isnan(effect)


@pytest.mark.parametrize("seed", range(3))
def test_level_weights_give_healthy_slices_the_heights_of_the_diseased(seed):
    rng = np.random.default_rng(seed)
    diseased = rng.random(500) < 0.3
    heights = np.where(diseased, rng.beta(5, 3, 500), rng.beta(2, 4, 500))
    weights, share = level_weights(heights, diseased, levels=7)
    healthy = (~diseased) & (weights > 0)
    edges = np.linspace(0, 1, 8)
    kept = diseased & (weights > 0)
    a = np.histogram(heights[kept], edges)[0] / kept.sum()
    b = np.histogram(heights[healthy], edges, weights=weights[healthy])[0] / weights[healthy].sum()
    np.testing.assert_allclose(a, b, atol=1e-12)
    assert share == kept.sum() / diseased.sum()
    assert set(weights[diseased]) <= {0.0, 1.0}
    # the ratio of the two kinds stays
    assert weights[healthy].sum() / kept.sum() == pytest.approx((~diseased).sum() / diseased.sum())


def test_level_weights_closed_form():
    heights = np.array([0.05, 0.05, 0.15, 0.15, 0.15, 0.25, 0.35, 1.0])
    diseased = np.array([True, True, True, False, False, False, True, False])
    heights[1] = 0.19
    weights, share = level_weights(heights, diseased)
    # levels: diseased alone; 2 diseased and 2 healthy; healthy alone; diseased alone; healthy alone
    assert weights.tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
    assert share == 0.5


def test_height_of_1_is_in_the_last_level():
    weights, share = level_weights(np.array([1.0, 0.95]), np.array([True, False]))
    assert (weights.tolist(), share) == ([1, 1], 1)


def test_level_weights_without_one_kind():
    weights, share = level_weights(np.array([0.1, 0.2]), np.array([False, False]))
    assert (weights.tolist(), math.isnan(share)) == ([0, 0], True)
    weights, share = level_weights(np.array([0.1, 0.2]), np.array([True, True]))
    assert (weights.tolist(), share) == ([0, 0], 0)
    weights, share = level_weights(np.array([0.1, 0.8]), np.array([True, False]))
    assert (weights.tolist(), share) == ([0, 0], 0)


def test_one_level_keeps_everything():
    weights, share = level_weights(np.array([0.1, 0.5, 0.9]), np.array([True, False, False]), levels=1)
    assert (weights.tolist(), share) == ([1, 1, 1], 1)


TWO = np.array([True, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification([0, np.nan], TWO), "scores.*1 of 2"),
        (lambda: classification([0, 1, 2], TWO), r"scores.*\(3,\).*\(2,\)"),
        (lambda: classification([0, 1], [1, 0]), "diseased.*int"),
        (lambda: classification([0, 1], TWO, [1, -1]), "weights.*-1"),
        (lambda: classification([0, 1], TWO, [1, np.nan]), "weights.*nan"),
        (lambda: classification([0, 1], TWO, [1]), r"weights.*\(1,\)"),
        (lambda: heights_differ([0, np.inf], TWO), "heights.*1 of 2"),
        (lambda: level_weights([0, 1.2], TWO), "heights.*1.2"),
        (lambda: level_weights([-0.1, 1], TWO), "heights.*-0.1"),
        (lambda: level_weights([0, 1], TWO, 0), "levels.*0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
