"""Every number of the evaluation's table, worked out slowly and in another way, from :class:`small_study.Seen`.

Pixels are pooled into one array and given to scikit-learn; components come from SciPy, SSIM from scikit-image; the
rest is loops. A subject that is drawn twice is simply listed twice. Thresholds are found first, on the subjects as
they are, since the resampling of patients does not find them anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity
from sklearn.metrics import auc, average_precision_score, roc_auc_score, roc_curve
from small_study import Seen

from scripts.evaluation.bins import Bins
from scripts.evaluation.evaluate import FROC_RATES

BINS = Bins()
COMPONENT = 4
"""Smallest component that counts, as in ``small_study.DEFAULTS``."""

EVERYWHERE = np.ones((3, 3, 3))


def bins_of(subject: Seen) -> np.ndarray:
    """Bin of each pixel's smoothed score."""
    return BINS.index(subject.smooth)


def pooled(subjects: Sequence[Seen], only_diseased: bool = False, whole_image: bool = False) -> tuple:
    """Labels and bins of all pixels that count."""
    labels, scores = [], []
    for s in subjects:
        where = np.ones_like(s.label) if whole_image else s.foreground
        if only_diseased:
            where = where & s.label.any(axis=(0, 1))
        labels.append(s.label[where])
        scores.append(bins_of(s)[where])
    return np.concatenate(labels), np.concatenate(scores)


def healthy_bins(subjects: Sequence[Seen]) -> np.ndarray:
    """Bins of the foreground of slices without a lesion."""
    return np.concatenate([bins_of(s)[s.foreground & ~s.label.any(axis=(0, 1))] for s in subjects])


def lowest_bin(values: np.ndarray, rate: float) -> int:
    """Lowest bin that at most this share of the values reaches."""
    return next(index for index in range(BINS.count + 1) if np.mean(values >= index) <= rate)


def best_bin(labels: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """Highest Dice of all thresholds, and the highest bin at which it is reached."""
    dice = {index: 2 * (labels & (scores >= index)).sum() / (labels.sum() + (scores >= index).sum())
            for index in np.unique(scores)}  # fmt: skip
    return max((value, int(index)) for index, value in dice.items())


def paper_segmentation(subject: Seen) -> np.ndarray:
    """The paper's words: clip at the 1st and 99th percentile, rescale to [0, 1], median of 3 here, above 0.5."""
    planes = []
    for k in range(subject.raw.shape[2]):
        raw = subject.raw[..., k].astype(np.float64)
        low, high = np.percentile(raw, 1), np.percentile(raw, 99)
        rescaled = (np.clip(raw, low, high) - low) / (high - low)
        planes.append((ndimage.median_filter(rescaled, size=3, mode="nearest") > 0.5) & subject.foreground[..., k])
    return np.stack(planes, axis=-1)


def without_small(segmentation: np.ndarray) -> np.ndarray:
    """Components of a slice, corners included, that are large enough."""
    kept = np.zeros_like(segmentation)
    for k in range(segmentation.shape[2]):
        numbers, count = ndimage.label(segmentation[..., k], np.ones((3, 3)))
        for number in range(1, count + 1):
            if (numbers == number).sum() >= COMPONENT:
                kept[..., k] |= numbers == number
    return kept


def prepare(subjects: Sequence[Seen], folds: Sequence[int], rate: float, deployed: float) -> tuple[dict, list[int]]:
    """Segmentations of every rule by subject, and the bins along the free-response curve."""
    oracle = best_bin(*pooled(subjects))[1]
    rules: dict[str, dict[str, np.ndarray]] = {"calibrated": {}, "deployed": {}, "paper": {}, "oracle": {}}
    for subject, fold in zip(subjects, folds, strict=True):
        others = [s for s, f in zip(subjects, folds, strict=True) if f != fold]
        calibrated = bins_of(subject) >= lowest_bin(healthy_bins(others), rate)
        for rule, found in (
            ("calibrated", calibrated),
            ("deployed", subject.smooth > np.float32(deployed)),
            ("paper", paper_segmentation(subject)),
            ("oracle", bins_of(subject) >= oracle),
        ):
            rules[rule][subject.body.name] = without_small(found)
        rules["calibrated"][f"{subject.body.name} uncleaned"] = calibrated
    labels, scores = pooled(subjects)
    return rules, sorted({lowest_bin(scores[~labels], rate) for rate in FROC_RATES}, reverse=True)


def pixel_metrics(subjects: Sequence[Seen]) -> dict[str, float]:
    labels, scores = pooled(subjects)
    false_rate, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    image = pooled(subjects, whole_image=True)
    return {
        "ap_foreground": average_precision_score(labels, scores),
        "ap_diseased_slices": average_precision_score(*pooled(subjects, only_diseased=True)),
        "auroc_foreground": roc_auc_score(labels, scores),
        "fpr95_foreground": false_rate[np.flatnonzero(recall >= 0.95)[0]],
        "aupro_foreground": aupro(subjects),
        "best_dice_foreground": best_bin(labels, scores)[0],
        "ap_image": average_precision_score(*image),
        "auroc_image": roc_auc_score(*image),
    }


def aupro(subjects: Sequence[Seen]) -> float:
    """Mean overlap with the lesions of single slices against the false positive rate, cut at 0.3."""
    labels, scores = pooled(subjects)
    lesions = []
    for s in subjects:
        for k in range(s.label.shape[2]):
            numbers, count = ndimage.label(s.label[..., k], np.ones((3, 3)))
            lesions += [bins_of(s)[..., k][numbers == number] for number in range(1, count + 1)]
    # A lesion's pixels outside the foreground are part of it, and have the lowest score.
    x, y = [0.0], [0.0]
    for index in np.unique(np.concatenate([scores, *lesions]))[::-1]:
        x.append(np.mean(scores[~labels] >= index))
        y.append(np.mean([np.mean(lesion >= index) for lesion in lesions]))
    inside = [(a, b) for a, b in zip(x, y, strict=True) if a < 0.3]
    last = next(i for i, a in enumerate(x) if a >= 0.3)
    share = (0.3 - x[last - 1]) / (x[last] - x[last - 1])
    points = [*inside, (0.3, y[last - 1] + share * (y[last] - y[last - 1]))]
    return auc(*zip(*points, strict=True)) / 0.3


def overlap_metrics(subjects: Sequence[Seen], found: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over slices and over subjects, with the healthy ones and without."""
    slices: dict[str, list[float]] = {key: [] for key in ("dice", "all", "precision", "sensitivity", "alarm")}
    whole: dict[str, list[float]] = {key: [] for key in ("dice", "all", "iou")}
    false_pixels = pixels = 0
    for s in subjects:
        segmentation = found[s.body.name]
        for k in range(s.label.shape[2]):
            label, predicted = s.label[..., k], segmentation[..., k]
            both = (label & predicted).sum()
            if label.any():
                slices["dice"].append(2 * both / (label.sum() + predicted.sum()))
                slices["all"].append(slices["dice"][-1])
                slices["sensitivity"].append(both / label.sum())
                if predicted.any():
                    slices["precision"].append(both / predicted.sum())
            else:
                slices["all"].append(float(not predicted.any()))
                slices["alarm"].append(float(predicted.any()))
                false_pixels += predicted.sum()
                pixels += s.foreground[..., k].sum()
        both, either = (s.label & segmentation).sum(), (s.label | segmentation).sum()
        if s.label.any():
            whole["dice"].append(2 * both / (both + either))
            whole["iou"].append(both / either)
        whole["all"].append(2 * both / (both + either) if s.label.any() else float(not segmentation.any()))
    return {
        "dice_slice": np.mean(slices["dice"]),
        "dice_slice_sd": np.std(slices["dice"], ddof=1),
        "dice_slice_all": np.mean(slices["all"]),
        "dice_subject": np.mean(whole["dice"]),
        "dice_subject_sd": np.std(whole["dice"], ddof=1),
        "dice_subject_all": np.mean(whole["all"]),
        "iou_subject": np.mean(whole["iou"]),
        "precision_slice": np.mean(slices["precision"]),
        "sensitivity_slice": np.mean(slices["sensitivity"]),
        "fpr_healthy": false_pixels / pixels,
        "alarms_healthy": np.mean(slices["alarm"]),
    }


def detections(subject: Seen, predicted: np.ndarray) -> tuple[int, int, int]:
    """Lesions in 3D, how many are touched, and predicted components that touch none."""
    lesions, count = ndimage.label(subject.label, EVERYWHERE)
    numbers, found = ndimage.label(predicted, EVERYWHERE)
    kept = [numbers == n for n in range(1, found + 1) if (numbers == n).sum() >= COMPONENT]
    hit = sum(any((component & (lesions == n)).any() for component in kept) for n in range(1, count + 1))
    return count, hit, sum(not (component & subject.label).any() for component in kept)


def lesion_metrics(subjects: Sequence[Seen], calibrated: dict[str, np.ndarray], curve: Sequence[int]) -> dict:
    def point(predictions: Sequence[np.ndarray]) -> tuple[float, float]:
        counts = np.array([detections(s, p) for s, p in zip(subjects, predictions, strict=True)])
        return counts[:, 2].mean(), counts[:, 1].sum() / counts[:, 0].sum()

    points = sorted(point([bins_of(s) >= index for s in subjects]) for index in curve)
    best = {alarms: max(found for other, found in points if other <= alarms) for alarms, _ in points}
    result = {
        f"froc_{number:g}": float(np.interp(number, list(best), list(best.values())))
        if number >= min(best)
        else math.nan
        for number in (0.5, 1, 2, 4, 8)
    }
    alarms, found = point([calibrated[f"{s.body.name} uncleaned"] for s in subjects])
    return {**result, "lesion_sensitivity_calibrated": found, "false_positives_calibrated": alarms}


def image_metrics(subjects: Sequence[Seen]) -> dict[str, float]:
    """Slices and subjects, healthy against diseased, by each score."""
    rows: list[dict[str, Any]] = []
    for place, s in enumerate(subjects):
        for k in range(s.label.shape[2]):
            values = s.smooth[..., k][s.foreground[..., k]]
            scores = {
                "mask_share": s.mask_share[k],
                "map_mean": values.mean(),
                "map_quantile": np.quantile(values, 0.99),
            }
            rows.append(
                {"place": place, "ill": s.label[..., k].any(), "level": min(int(s.heights[k] * 10), 9), **scores}
            )
    ill = np.array([row["ill"] for row in rows])
    levels = np.array([row["level"] for row in rows])
    result = {}
    for name in ("mask_share", "map_mean", "map_quantile"):
        scores = np.array([row[name] for row in rows])
        false_rate, recall, _ = roc_curve(ill, scores, drop_intermediate=False)
        # Of every level the healthy slices weigh as much as the diseased ones; a level of one kind does not count.
        both = [level for level in set(levels) if len({*ill[levels == level]}) == 2]
        weight = np.array([1.0 if i else (levels == level)[ill].sum() / (levels == level)[~ill].sum()
                           for i, level in zip(ill, levels, strict=True)])  # fmt: skip
        chosen = np.isin(levels, both)
        means = [np.mean([r[name] for r in rows if r["place"] == place]) for place in range(len(subjects))]
        sick = [s.label.any() for s in subjects]
        result |= {
            f"slice_auroc_{name}": roc_auc_score(ill, scores),
            f"slice_auprc_{name}": average_precision_score(ill, scores),
            f"slice_sensitivity95_{name}": recall[false_rate <= 0.05 + 1e-9].max(),
            f"slice_auroc_matched_{name}": roc_auc_score(ill[chosen], scores[chosen], sample_weight=weight[chosen]),
            f"patient_auroc_{name}": roc_auc_score(sick, means) if len(set(sick)) == 2 else math.nan,
            f"patient_auprc_{name}": average_precision_score(sick, means) if len(set(sick)) == 2 else math.nan,
        }
    return result


def reconstruction_metrics(subjects: Sequence[Seen]) -> dict[str, float]:
    lists: dict[str, list[float]] = {f"{m}_{w}": [] for m in ("psnr", "ssim") for w in ("healthy", "outside_lesion")}
    lists |= {"paper_psnr": [], "paper_auprc": []}
    for s in subjects:
        for k in range(s.label.shape[2]):
            image, rebuilt = (a[..., k].astype(np.float64) for a in (s.image, s.reconstruction))
            label, squares = s.label[..., k], (image - rebuilt) ** 2
            maps = [
                structural_similarity(
                    a, b, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
                )[1][5:-5, 5:-5]
                for a, b in zip(image, rebuilt, strict=True)
            ]
            where = "outside_lesion" if label.any() else "healthy"
            lists[f"psnr_{where}"].append(-10 * math.log10(squares[:, ~label].mean()))
            lists[f"ssim_{where}"].append(np.stack(maps)[:, ~label[5:-5, 5:-5]].mean())
            if label.any():
                lists["paper_psnr"].append(-10 * math.log10(squares.mean()))
                lists["paper_auprc"].append(average_precision_score(label.ravel(), bins_of(s)[..., k].ravel()))
    return {key: float(np.mean(values)) for key, values in lists.items()}


def all_slow(subjects: Sequence[Seen], rules: dict, curve: Sequence[int]) -> dict[str, float]:
    """Every metric of the table."""
    overlaps = {f"{k}_{rule}": v for rule in rules for k, v in overlap_metrics(subjects, rules[rule]).items()}
    return {
        **pixel_metrics(subjects),
        **overlaps,
        **lesion_metrics(subjects, rules["calibrated"], curve),
        **image_metrics(subjects),
        **reconstruction_metrics(subjects),
        "paper_dice": overlaps["dice_slice_paper"],
    }
