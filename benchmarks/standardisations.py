"""What a standardisation of intensities is worth: a bright threshold, no model, judged on labelled volumes.

    PYTHONPATH=bundle python benchmarks/standardisations.py --dataset_dir lgg/val --training_dir lgg/train \
        --mask_dir masks

A standardisation that makes patients alike has a pooled AP near the mean AP of its patients, and little spread of
healthy tissue between patients. The map is the sequence itself, smoothed; lesion pixels outside the brain are missed.
"""

from __future__ import annotations

import argparse
import csv
import logging
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from models import read_configs
from monai.transforms import Compose, Orientationd
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from tqdm import tqdm

from scripts.brightness_scores import brightness, dark_within_tissue
from scripts.data.datalists import find_volumes
from scripts.data.selection import volume_to_slices
from scripts.transforms import LoadSubjectd
from scripts.transforms.brain import ExtractBraind
from scripts.transforms.landmarks import learn_landmarks
from scripts.transforms.standardise import Median, Percentile, RobustRange, Standardisation, StandardiseForegroundd

logger = logging.getLogger("standardisations")

MISSED = -1.0
"""Below every score: a lesion pixel outside the brain is found last."""

LESION_PROOF = (1, 10, 25, 50, 75)
"""Percentiles that a lesion of less than a quarter of the brain hardly moves."""


def subjects(folder: str, arguments: argparse.Namespace) -> list[dict]:
    """Every subject of a folder, brains only, not yet standardised."""
    config = read_configs("inference")
    found = find_volumes(folder, arguments.sequences, config["sequence_suffixes"], config["label_suffixes"])
    method = None if arguments.brain_extraction == "null" else arguments.brain_extraction
    mask_file = str(Path(arguments.mask_dir) / "{subject}_brain.nii.gz") if arguments.mask_dir else None
    brains = ExtractBraind(arguments.sequences, arguments.brain_sequence, method, arguments.margin, mask_file=mask_file)
    keys = ["image", "label"]
    orient = Orientationd(keys, axcodes="LPS", labels=None, allow_missing_keys=True)
    read = Compose([LoadSubjectd(arguments.sequences), brains, orient])
    return [read(item) for item in tqdm(found, desc=folder, unit="subject", leave=False)]


def standardisations(arguments: argparse.Namespace) -> dict[str, Standardisation]:
    """By name; landmarks where there are training volumes to learn them from."""
    named: dict[str, Standardisation] = {
        "percentile 99.5": Percentile(),
        "median": Median(),
        "robust range": RobustRange(),
    }
    if arguments.training_dir:
        volumes = [item["image"] for item in subjects(arguments.training_dir, arguments)]
        named["landmarks to 99 %"] = learn_landmarks(volumes, arguments.sequences)
        named["landmarks to 75 %"] = learn_landmarks(volumes, arguments.sequences, LESION_PROOF, high=0.45)
    return named


def maps_of(item: dict, score) -> dict[str, np.ndarray]:
    """Slices of a subject: score, label, foreground, (N, H, W) each."""
    everything = torch.arange(item["image"].shape[-1])
    images = volume_to_slices(item["image"].as_tensor(), everything)
    return {
        "score": score(images, images)[:, 0].numpy(),
        "label": volume_to_slices(item["label"].as_tensor(), everything)[:, 0].numpy() > 0,
        "foreground": (images > 0).any(dim=1).numpy(),
    }


def pixels(maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Label and score of the pixels that count in lesion slices: the brain's, and lesions outside of it."""
    counted = (maps["foreground"] | maps["label"]) & maps["label"].any(axis=(1, 2), keepdims=True)
    return maps["label"][counted], np.where(maps["foreground"], maps["score"], MISSED)[counted]


def slice_auroc(maps: list[dict[str, np.ndarray]]) -> float:
    """Of the 99 % quantile of the brain's scores in a slice."""
    rows = [
        (label.any(), np.quantile(score[inside], 0.99))
        for one in maps
        for score, label, inside in zip(one["score"], one["label"], one["foreground"], strict=True)
        if inside.any()
    ]
    truth, values = zip(*rows, strict=True)
    return float(roc_auc_score(truth, values))


def spread(standardised: list[dict], channel: int, quantile: float) -> float:
    """How far a quantile of healthy slices lies apart between patients, in units of the tissue's own deviation."""
    found, deviations = [], []
    for item in standardised:
        image, label = item["image"].as_tensor(), item["label"].as_tensor()
        healthy = image[channel][..., ~(label > 0).any(dim=0).any(dim=0).any(dim=0)]
        if (healthy > 0).any():
            values = healthy[healthy > 0].numpy()
            found.append(np.quantile(values, quantile))
            deviations.append(values.std())
    return float(np.std(found) / np.mean(deviations))


def judge(read: list[dict], standardisation: Standardisation, arguments: argparse.Namespace) -> dict[str, float]:
    """A row of the table."""
    standardise = StandardiseForegroundd("image", arguments.sequences, standardisation)
    standardised = [standardise(item) for item in read]
    channel = arguments.sequences.index(arguments.sequence)
    score = partial(brightness, channel=channel, reference=0.0, sigma=arguments.sigma)
    if arguments.dark:
        score = partial(dark_within_tissue, channel=channel, sigma=arguments.sigma)
    maps = [maps_of(item, score) for item in standardised]
    judged = [(label, values) for label, values in map(pixels, maps) if label.any()]
    label, values = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    precision, recall, _ = precision_recall_curve(label, values, drop_intermediate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        dice = np.nanmax(2 * precision * recall / (precision + recall))
    return {
        "AP pooled": average_precision_score(label, values),
        "mean AP": float(np.mean([average_precision_score(*one) for one in judged])),
        "oracle Dice": float(dice),
        "slice AUROC": slice_auroc(maps),
        "spread of median": spread(standardised, channel, 0.5),
        "spread of 95 %": spread(standardised, channel, 0.95),
    }


def main() -> None:
    """Measure, print a table, write CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True, help="labelled volumes to judge on")
    parser.add_argument("--training_dir", help="volumes that landmarks are learnt from; none without")
    parser.add_argument("--mask_dir", help="where brain masks are kept, SUBJECT_brain.nii.gz; made where missing")
    parser.add_argument("--brain_extraction", choices=["deepbet", "null"], default="deepbet")
    parser.add_argument("--brain_sequence", default="t1")
    parser.add_argument("--margin", type=float, default=2, help="pixels by which masks are dilated")
    parser.add_argument("--sequences", nargs="+", default=["t1", "flair", "t1ce"])
    parser.add_argument("--sequence", default="flair", help="whose brightness is the map")
    parser.add_argument("--dark", action="store_true", help="darkness within tissue in place of brightness")
    parser.add_argument("--sigma", type=float, default=2.0, help="pixels of the Gaussian")
    parser.add_argument("--output", help="CSV file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    read, rows = subjects(arguments.dataset_dir, arguments), []
    for name, standardisation in standardisations(arguments).items():
        rows.append({"standardisation": name, **judge(read, standardisation, arguments)})
        if len(rows) == 1:
            logger.info(" ".join(f"{key:>17}" for key in rows[0]))
        logger.info(" ".join(f"{v:>17.3f}" if isinstance(v, float) else f"{v:>17}" for v in rows[-1].values()))
    if arguments.output:
        with Path(arguments.output).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
