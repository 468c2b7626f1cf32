"""Rows of the table about the reconstruction, and the protocol of the paper."""

from __future__ import annotations

from .metric import Metric, diseased, healthy, mean_of

NO_RECONSTRUCTION = "no reconstruction, or no such slice"
HEALTHY = [
    Metric(
        f"{measure}_{kind}",
        f"{measure.upper()}{' (dB)' if measure == 'psnr' else ''}, {where}",
        "healthy tissue",
        "high",
        f"Mean over slices of the {measure.upper()} of the reconstruction{text}.",
        NO_RECONSTRUCTION,
        mean_of(f"{measure}_healthy", select),
    )
    for measure in ("psnr", "ssim")
    for kind, where, text, select in (
        ("healthy", "healthy slices", "", healthy),
        ("outside_lesion", "slices with a lesion, outside it", ", over the pixels outside the lesion", diseased),
    )
]

PAPER = [
    Metric(
        "paper_dice",
        "Dice",
        "protocol of the paper's Table 1",
        "high",
        "Mean over slices with a lesion; the slice's own map clipped at its 1st and 99th percentile, rescaled, "
        "smoothed, cut at 0.5.",
        "no slice with a lesion",
        mean_of("dice_paper", diseased),
    ),
    Metric(
        "paper_auprc",
        "AUPRC",
        "protocol of the paper's Table 1",
        "high",
        "Mean over slices with a lesion of each slice's own average precision, over the whole image.",
        "no slice with a lesion",
        mean_of("average_precision", diseased),
    ),
    Metric(
        "paper_psnr",
        "PSNR (dB)",
        "protocol of the paper's Table 1",
        "high",
        "Mean over slices with a lesion, of the whole reconstruction, lesion included.",
        NO_RECONSTRUCTION,
        mean_of("psnr", diseased),
    ),
]
