"""The MONAI Deploy application as a process of its own, in the environment that deploy/setup makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from bundle_runner import BUNDLE, ROOT, environment

DEPLOY = ROOT / "deploy"
SETTINGS = {"num_inference_steps": 4, "slice_range": [8, 11], "anomaly_threshold": 0.14, "device": "cpu", "amp": False}


def run_application(
    source: Path, target: Path, packaged: bool = False, bundle: Path = BUNDLE, **settings
) -> subprocess.CompletedProcess:
    """``deploy/run`` in a process of its own; never raises.

    ``packaged`` gives the paths as a container does: by variables, with the bundle in a folder of models.
    """
    if not (Path(os.environ.get("VENV", ROOT / ".venv-deploy")) / "bin" / "python").is_file():
        pytest.fail("there is no environment for the application: make it with deploy/setup")
    config = target.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"bundle": {"settings": {**SETTINGS, "progress": False, **settings}}}))
    env = {**environment(), "HOLOSCAN_CONFIG_PATH": str(config)}
    command = [str(DEPLOY / "run"), "-i", str(source), "-o", str(target), "-m", str(bundle)]
    if packaged:
        models = target.parent / "models"
        models.mkdir()
        (models / "bundle").symlink_to(bundle)
        paths = {"INPUT": source.name, "OUTPUT": target.name, "MODEL": str(models)}
        env |= {f"HOLOSCAN_{name}_PATH": path for name, path in paths.items()}
        command = command[:1]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=target.parent)


def error_of(result: subprocess.CompletedProcess) -> str:
    """What the application says in its last words; fails the test when it ended well."""
    printed = result.stdout + result.stderr
    assert result.returncode == 1, printed[-6000:]
    lines = [line for line in printed.splitlines() if "[ERROR] (anomaly_app)" in line]
    assert len(lines) == 1, printed[-6000:]
    return lines[0]


def frames_by_position(path: Path) -> dict[tuple[float, ...], tuple[np.ndarray, str]]:
    """Position in mm of each frame, with its pixels and the SOPInstanceUID that it refers to."""
    image = pydicom.dcmread(path)
    pixels = image.pixel_array.reshape(-1, image.Rows, image.Columns)
    found = {}
    for plane, groups in zip(pixels, image.PerFrameFunctionalGroupsSequence, strict=True):
        position = tuple(float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient)
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        found[position] = (plane, source)
    return found
