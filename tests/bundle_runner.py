"""Tiny data, a tiny overlay, and the bundle's real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from warm_process import run_module

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
SIZE = 64
"""Pixels of the tiny networks' images: their codes are 8 x 8."""

AFFINE = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 4, -10], [0, 0, 0, 1]], dtype=np.float64)

TINY = {
    "image_size": SIZE,
    "crop_size": SIZE,
    "amp": False,
    "device": "cpu",
    "num_workers": 0,
    "batch_size": 2,
    "epoch_length": 3,
    "max_epochs": 2,
    "val_interval": 1,
    "picture_interval": 1,
    "progress": False,
    "noise_level": 6,
    # Flip probabilities of an untrained denoiser lie about 0.5: some bits are masked, others are not.
    "probability_threshold": 0.5,
    "num_inference_steps": 3,
    "discriminator_def": {
        "_target_": "PatchDiscriminator",
        "spatial_dims": 2,
        "channels": 4,
        "in_channels": "$len(@sequences)",
        "num_layers_d": 2,
    },
    "denoiser": {
        "_target_": "DiffusionModelUNet",
        "spatial_dims": 2,
        "in_channels": 16,
        "out_channels": 16,
        "channels": [8, 8],
        "num_res_blocks": 1,
        "attention_levels": [False, True],
        "num_head_channels": 8,
        "norm_num_groups": 8,
        "include_fc": True,
    },
}
TINY_AUTOENCODER = {
    "_target_": "scripts.networks.BinarizingAutoencoder",
    "in_channels": "$len(@sequences)",
    "channels": [8, 8, 8, 8],
    "num_res_blocks": 1,
    "embedding_channels": 8,
    "code_channels": 16,
    "norm_num_groups": 8,
}


TRAININGS = {
    "autoencoder": ["inference.json", "train.json", "train_adversarial.json"],
    "denoiser": ["inference.json", "train.json"],
}
"""By part the configurations of its training."""


def base_configs(name: str, folder: Path = CONFIGS) -> list[Path]:
    """The configurations that train a part, or the one of that name."""
    return [folder / file for file in TRAININGS.get(name, [f"{name}.json"])]


def tiny_overlay(folder: Path, name: str, **changes) -> Path:
    """Write an overlay that shrinks networks and schedule; ``name`` is part of its file's."""
    path = folder / f"tiny_{name}.json"
    path.write_text(json.dumps({**TINY, "autoencoder": TINY_AUTOENCODER, **changes}))
    return path


def run_bundle(
    run_id: str, configs: Sequence[str | Path], cwd: Path = BUNDLE, fork: bool = True, **overrides
) -> subprocess.CompletedProcess:
    """``python -m monai.bundle run`` in a process of its own, forked or from the very start; never raises."""
    command = bundle_command(run_id, configs, **overrides)
    if not fork:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment())
    _, _, module, *arguments = command
    return run_module(module, arguments, cwd, environment())


def bundle_command(run_id: str, configs: Sequence[str | Path], **overrides) -> list[str]:
    """The command line of :func:`run_bundle`."""
    files = [str(c) for c in configs]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", files[0] if len(files) == 1 else str(files)]
    for key, value in overrides.items():
        command += [f"--{key}", str(value)]
    return command


def environment() -> dict[str, str]:
    """One thread a process, set by ``warm_process``: tests run beside each other, and sums keep their order."""
    return dict(os.environ)


def check_run(result: subprocess.CompletedProcess) -> str:
    """Everything the process printed; fails the test when it did not end well."""
    printed = result.stdout + result.stderr
    assert result.returncode == 0, printed[-6000:]
    return printed


def phantom(shape: Sequence[int], seed: int) -> np.ndarray:
    """A smooth blob with texture in an empty background, different for each seed, int16."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(g**2 / (0.5 + 0.3 * rng.random()) for g in grids[:2]) < 1
    texture = 500 + 300 * np.sin(3 * grids[0] + rng.random() * 6) + 50 * rng.standard_normal(shape)
    return (np.clip(texture, 1, None) * inside).astype(np.int16)


def write_subject(
    folder: Path,
    name: str,
    seed: int,
    sequences: Sequence[str] = ("t1", "flair", "t1ce"),
    shape: Sequence[int] = (56, 48, 6),
    affine: np.ndarray = AFFINE,
    lesion_slices: Sequence[int] | None = (1,),
) -> Path:
    """A subject in BraTS layout; ``lesion_slices=None`` leaves the label out."""
    target = folder / name
    target.mkdir(parents=True)
    for number, sequence in enumerate(sequences):
        image = nib.Nifti1Image(phantom(shape, 100 * seed + number), affine)
        nib.save(image, target / f"{name}_{sequence}.nii.gz")
    if lesion_slices is not None:
        label = np.zeros(shape, dtype=np.uint8)
        for index in lesion_slices:
            label[20:30, 20:30, index] = 1
        nib.save(nib.Nifti1Image(label, affine), target / f"{name}_seg.nii.gz")
    return target


def write_prepared(folder: Path, count: int, channels: int, label: bool, size: int = SIZE) -> None:
    """Prepared slices (channel, row, column) in [0, 1]; with ``label`` a further channel, set in every other file."""
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.stack([phantom((size, size), 100 * number + c) for c in range(channels)]) / 2000.0
        if label:
            mask = np.zeros((1, size, size))
            mask[:, 20:30, 24:40] = number % 2
            image = np.concatenate([image, mask])
        nib.save(nib.Nifti1Image(image.clip(0, 1).astype(np.float32), np.eye(4)), folder / f"{number:06d}.nii.gz")


def write_pictures(folder: Path, kind: str, patients: int, size: tuple[int, int] = (90, 70)) -> None:
    """OCT2017-like grey JPEGs, two a patient, in a folder named after their class."""
    target = folder / kind.lower()
    target.mkdir(parents=True)
    for patient in range(patients):
        for number in (1, 2):
            picture = phantom(size, 10 * patient + number) / 1000 * 255
            path = target / f"{kind.upper()}-{1000 + patient}-{number}.jpeg"
            Image.fromarray(picture.clip(0, 255).astype(np.uint8).T).save(path)
