"""A summary as an evaluation writes it, with everything that is awkward to show, and what goes with it."""

from __future__ import annotations

import math

import numpy as np

from scripts.report import Panel

HOSTILE = "<script>alert(1)</script>"
METHODS = {
    "masked": "Masked Bernoulli diffusion",
    "unmasked": "Bernoulli diffusion without a mask, thousand steps",
    "flip": "Flip probabilities alone, one network evaluation a noise level, no reconstruction at all",
    "autoencoder": "Autoencoder",
    "intensity": "Intensity & <histogram> $equalised$",
}
METRICS = {
    "auprc": ("AUPRC", "pixel", "high"),
    "auroc": ("AUROC", "pixel", "high"),
    "auprc_image": ("AUPRC, whole image with its background", "pixel, whole image", "high"),
    "dice_calibrated": ("Dice, calibrated threshold", "Dice", "high"),
    "dice_oracle": ("Dice, best possible threshold", "Dice", "high"),
    "lesion_sensitivity": ("Lesions found at one false positive a slice", "lesions", "high"),
    "image_auroc": ("AUROC of slices", "images", "high"),
    "patient_auroc": ("AUROC of patients", "patients", "high"),
    "residual_healthy": ("Mean residual of healthy tissue", "healthy tissue", "low"),
    "threshold_shift": ("Shift of the threshold between folds", "healthy tissue", ""),
    "paper_dice": ("Dice of the paper's protocol", "paper protocol", "high"),
    "seconds": ("Seconds a slice", "cost", "low"),
    "gigabytes": ("Peak memory, GB", "cost", "low"),
}
ONE_CLASS = "every patient has a lesion: there is nothing to tell apart"
NO_RECONSTRUCTION = "the method makes no reconstruction"
SIZES = ["< 100", "100 to 500", "500 to 2,000", "> 2,000"]


def fake_summary(seed: int = 0) -> dict:
    """Summary of five methods; AUROC of patients is defined for none, residuals not for the flip probabilities."""
    rng = np.random.default_rng(seed)
    return {
        "title": "Evaluation: Masked Bernoulli diffusion on MADE-UP data",
        "created": "2025-02-03T04:05:06+00:00",
        "notes": [
            "Every patient has a lesion; the healthy slices are theirs.",
            f"Subject {HOSTILE}: 3 slices were left out.",
        ],
        "data": {
            "subjects": 12,
            "patients": 12,
            "healthy_patients": 0,
            "slices": 1234,
            "diseased_slices": 701,
            "healthy_slices": 533,
            "lesions": 57,
            "prevalence_foreground": 0.0213,
            "prevalence_image": 0.00084,
        },
        "reference": "masked",
        "methods": {
            name: {
                "title": title,
                "score": {"sum": "channels"} if i % 2 else "sum",
                "seeds": 3,
                "settings": {"steps": i},
            }
            for i, (name, title) in enumerate(METHODS.items())
        },
        "metrics": {
            key: {"title": title, "group": group, "better": better, "help": f"What {title} is & means."}
            for key, (title, group, better) in METRICS.items()
        },
        "table": {name: {key: _entry(rng, name, key) for key in METRICS} for name in METHODS},
        "differences": {name: {key: _difference(rng, key) for key in METRICS} for name in list(METHODS)[1:]},
        "curves": {name: _curves(0.3 + 0.1 * i) for i, name in enumerate(METHODS)},
        "lesion_size": {
            "unit": "voxels",
            "classes": SIZES,
            "lesions": [7, 21, 20, 9],
            "sensitivity": {name: [None, *np.sort(rng.random(3)).tolist()] for name in METHODS},
        },
        "thresholds": {
            name: {"calibrated": (0.1 + 0.01 * rng.random(4)).tolist(), "oracle": 0.087, "deployed": None}
            for name in METHODS
        },
        "score_histograms": {title: _histogram(rng) for title in ("Sum of the map", "Largest of the map")},
        "sampling_seeds": {"masked": [0, 1, 2]},
        "settings": {"folds": 4, "bootstrap": {"draws": 1000, "level": 0.95}},
        "versions": {"torch": "2.13.0", "monai": "1.6.1"},
    }


def _entry(rng: np.random.Generator, method: str, key: str) -> dict:
    if key == "patient_auroc":
        return {"value": None, "low": None, "high": None, "reason": ONE_CLASS, "seed_sd": None}
    if (method, key) == ("flip", "residual_healthy"):
        return {"value": math.nan, "low": None, "high": None, "reason": NO_RECONSTRUCTION, "seed_sd": None}
    factor = {"seconds": 12.0, "gigabytes": 3.0, "residual_healthy": 1e-4}.get(key, 1.0)
    value = factor * (0.2 + 0.6 * float(rng.random()))
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value, "reason": None, "seed_sd": 0.01 * value}


def _difference(rng: np.random.Generator, key: str) -> dict:
    if key == "patient_auroc":
        return {"reason": ONE_CLASS}
    value = float(rng.normal(0, 0.1))
    return {"value": value, "low": value - 0.08, "high": value + 0.08, "p_value": float(rng.random()) ** 8}


def _curves(skill: float) -> dict:
    recall = np.linspace(0, 1, 200)
    false_positives = np.concatenate(([0], np.geomspace(0.05, 40, 30)))
    wanted = np.array([0.001, 0.003, 0.01, 0.03, 0.1])
    return {
        "precision_recall": {"recall": recall.tolist(), "precision": np.exp(-4 * (1 - skill) * recall).tolist()},
        "froc": {
            "false_positives": false_positives.tolist(),
            "sensitivity": (1 - np.exp(-skill * false_positives)).tolist(),
            "per": "slice",
        },
        "calibration": {"wanted": wanted.tolist(), "realised": (np.maximum(wanted - 0.002, 0) * 2 * skill).tolist()},
    }


def _histogram(rng: np.random.Generator) -> dict:
    healthy, diseased = rng.gamma(2, 10, 533), rng.gamma(3, 20, 701)
    edges = np.linspace(0, 250, 41)
    counts = {"healthy": np.histogram(healthy, edges)[0], "diseased": np.histogram(diseased, edges)[0]}
    return {"edges": edges.tolist(), **{kind: bins.tolist() for kind, bins in counts.items()}}


def fake_slices(count: int = 200, seed: int = 0) -> list[dict]:
    """Rows of all methods; a third of the slices is healthy and has no Dice."""
    rng = np.random.default_rng(seed)
    rows = []
    for method in METHODS:
        for number in range(count):
            diseased = int(number % 3 > 0)
            pixels = int(np.exp(rng.uniform(0.5, 8))) if diseased else 0
            dice = float(np.clip(np.log1p(pixels) / 10 + rng.normal(0, 0.12), 0, 1)) if diseased else ""
            rows.append(
                {
                    "method": method,
                    "subject": HOSTILE,
                    "slice": number,
                    "height": number / count,
                    "diseased": diseased,
                    "lesion_pixels": pixels,
                    "dice_calibrated": dice,
                }
            )
    return rows


def fake_panel(
    group: str, number: int, reconstruction: bool = True, methods: tuple[str, ...] = tuple(METHODS)
) -> Panel:
    """A slice (64, 48), wider than it is high, whose lesion is in its upper right quarter."""
    rng = np.random.default_rng(number)
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 48), indexing="ij")
    head = (x / 0.9) ** 2 + (y / 0.9) ** 2 < 1
    label = (x - 0.4) ** 2 + (y + 0.4) ** 2 < 0.04
    image = np.clip(head * (0.4 + 0.05 * rng.normal(size=x.shape)) + 0.4 * label, 0, 1)
    maps = {
        METHODS[name]: head * np.abs(rng.normal(0, 0.1 * (i + 1), x.shape)) + (number + 1) * 0.3 * label
        for i, name in enumerate(methods)
    }
    segmentation = np.roll(label, 3, axis=0)
    healthy = np.clip(image - 0.4 * label, 0, 1) if reconstruction else None
    return Panel(group, f"{HOSTILE}, slice {number}, Dice 0.{number}12", image, healthy, maps, label, segmentation)


def fake_panels() -> list[Panel]:
    """Two panels a group; the last is without reconstruction and lacks maps."""
    panels = [fake_panel(group, number) for number, group in enumerate(("worst", "best", "random", "random", "best"))]
    return [*panels, fake_panel("worst", 5, reconstruction=False, methods=("masked", "flip"))]
