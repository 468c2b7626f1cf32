"""Make a bundle folder whose inference is another method's, for tools that read ``configs/inference.json`` only.

MONAI Label and MONAI Deploy are given the new folder::

    python -m scripts.make_method_bundle --overlay configs/methods/NAME.json --weights my_model.pt \
        --output ../output/NAME
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from monai.bundle import ConfigParser

from .files import writable_folder, write_json

logger = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parent.parent

COPIED = ("LICENSE", "configs", "docs", "sample", "scripts")


def make_method_bundle(
    output: str, overlays: Sequence[str], weights: str, calibration: str | None = None, root: Path = BUNDLE_ROOT
) -> Path:
    """Copy the bundle to ``output`` with overlays merged into its ``configs/inference.json``.

    Args:
        output: the new folder; must not exist or be empty.
        overlays: configuration files, of the method first.
        weights: becomes ``models/model.pt``.
        calibration: becomes ``models/calibration.json``; without it an overlay must set ``anomaly_threshold``.
        root: the bundle.

    Raises:
        FileNotFoundError: naming a file that is not there.
        FileExistsError: when ``output`` holds anything.
    """
    for path in (*overlays, weights, *([calibration] if calibration else [])):
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path!r}.")
    target = Path(output)
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"output: {output!r} is not empty.")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored, dirs_exist_ok=True)
        else:
            writable_folder(target, "output")
            shutil.copy2(source, target / name)
    base = str(root / "configs" / "inference.json")
    merged = ConfigParser.load_config_files([base, *map(str, overlays)])
    # A method's overlay names files of its own, which are not the new folder's.
    own_files = {key: ConfigParser.load_config_file(base)[key] for key in ("weights", "calibration_file")}
    write_json(target / "configs" / "inference.json", {**merged, **own_files})
    models = writable_folder(target / "models", "output")
    shutil.copy2(root / "models" / "LICENSE", models / "LICENSE")
    shutil.copy2(weights, models / "model.pt")
    if calibration:
        shutil.copy2(calibration, models / "calibration.json")
    logger.info("a bundle of %s: %s", ", ".join(map(str, overlays)), target)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlay", nargs="+", required=True, help="configuration files, the method's first")
    parser.add_argument("--weights", required=True, help="model of the method")
    parser.add_argument("--calibration", help="its calibrated threshold")
    parser.add_argument("--output", required=True, help="the new folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        make_method_bundle(options.output, options.overlay, options.weights, options.calibration)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
