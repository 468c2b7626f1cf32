from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from scripts.evaluation.overlap import Confusion


def masks(predicted: float, lesion: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((9, 8)) < predicted, rng.random((9, 8)) < lesion


CASES = [masks(0.3, 0.2), masks(0.9, 0.1, 1), masks(0, 0.2), masks(0.2, 0), masks(0, 0), masks(1, 1), masks(1, 0.5)]


def monai_pair(prediction: np.ndarray, label: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(prediction)[None, None].float(), torch.from_numpy(label)[None, None].float()


@pytest.mark.parametrize(("prediction", "label"), CASES)
def test_counts_equal_sklearn(prediction, label):
    tn, fp, fn, tp = confusion_matrix(label.ravel(), prediction.ravel(), labels=[False, True]).ravel()
    counts = Confusion.of(prediction, label)
    assert counts == Confusion(tp=tp, fp=fp, fn=fn, tn=tn)
    assert all(type(v) is int for v in (counts.tp, counts.fp, counts.fn, counts.tn))


@pytest.mark.parametrize(("prediction", "label"), CASES)
@pytest.mark.parametrize("empty_is_right", [True, False])
def test_dice_and_iou_equal_monai(prediction, label, empty_is_right):
    counts, pair = Confusion.of(prediction, label), monai_pair(prediction, label)
    dice = compute_dice(*pair, ignore_empty=not empty_is_right).item()
    iou = compute_iou(*pair, ignore_empty=not empty_is_right).item()
    assert counts.dice(empty_is_right) == pytest.approx(dice, abs=1e-6, nan_ok=True)
    assert counts.iou(empty_is_right) == pytest.approx(iou, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("prediction", "label"), CASES)
def test_rates_equal_monai(prediction, label):
    counts = Confusion.of(prediction, label)
    matrix = get_confusion_matrix(*monai_pair(prediction, label))
    for name in ("precision", "sensitivity", "specificity"):
        expected = compute_confusion_matrix_metric(name, matrix).item()
        assert getattr(counts, name)() == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_metrics_equal_sklearn():
    prediction, label = masks(0.4, 0.3, 2)
    counts, pair = Confusion.of(prediction, label), (label.ravel(), prediction.ravel())
    assert counts.dice() == pytest.approx(f1_score(*pair), abs=1e-12)
    assert counts.iou() == pytest.approx(jaccard_score(*pair), abs=1e-12)
    assert counts.precision() == pytest.approx(precision_score(*pair), abs=1e-12)
    assert counts.sensitivity() == pytest.approx(recall_score(*pair), abs=1e-12)
    assert counts.specificity() == pytest.approx(recall_score(~pair[0], ~pair[1]), abs=1e-12)


def test_empty_counts_as_right():
    assert Confusion(tn=5).dice() == Confusion(tn=5).iou() == 1
    assert Confusion(fp=1, tn=4).dice() == Confusion(fp=1, tn=4).iou() == 0
    assert Confusion(fp=5).dice() == 0
    assert Confusion(fn=2, tn=3).dice() == Confusion(fn=2, tn=3).iou() == 0


def test_empty_excluded():
    for counts in (Confusion(tn=5), Confusion(fp=1, tn=4)):
        assert math.isnan(counts.dice(empty_is_right=False))
        assert math.isnan(counts.iou(empty_is_right=False))
    # a lesion that is missed altogether is no empty label
    assert Confusion(fn=2, tn=3).dice(empty_is_right=False) == 0


def test_no_pixel_at_all_is_not_defined():
    none = Confusion()
    values = [none.dice(), none.dice(False), none.iou(), none.iou(False)]
    assert all(map(math.isnan, [*values, none.precision(), none.sensitivity(), none.specificity()]))


def test_where_equals_indexing():
    prediction, label = masks(0.4, 0.3, 3)
    where = masks(0.5, 0, 4)[0]
    assert Confusion.of(prediction, label, where) == Confusion.of(prediction[where], label[where])
    assert Confusion.of(prediction, label, np.zeros_like(where)) == Confusion()


def test_sum_pools_pixels():
    parts = [masks(0.4, 0.3, seed) for seed in range(3)]
    pooled = sum((Confusion.of(*part) for part in parts), Confusion())
    assert pooled == Confusion.of(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    with pytest.raises(TypeError):
        Confusion() + 1


def test_bad_arrays_are_named():
    prediction, label = masks(0.4, 0.3)
    with pytest.raises(ValueError, match=r"prediction.*boolean.*float32"):
        Confusion.of(prediction.astype(np.float32), label)
    with pytest.raises(ValueError, match=r"label.*boolean.*int"):
        Confusion.of(prediction, label.astype(int))
    with pytest.raises(ValueError, match=r"prediction.*\(9, 8\).*\(8, 8\)"):
        Confusion.of(prediction[1:], label)
    with pytest.raises(ValueError, match=r"where.*\(9, 8\).*\(9,\)"):
        Confusion.of(prediction, label, prediction[:, 0])
