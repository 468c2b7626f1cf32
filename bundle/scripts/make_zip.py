"""Pack the bundle into one zip file, as the model zoo and ``monai.bundle`` expect it.

Run in the bundle's folder::

    python -m scripts.make_zip --output ../output/bundle.zip

The zip holds one folder, named after the model, with the configurations, code, weights, sample, documents and licences,
and a ``requirements.txt`` made from the metadata. Results, caches, hidden and half written files stay out. The same
files give the same bytes, whatever their dates and permissions are, as long as the zlib library is the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import atomic_path, file_hash, writable_folder

logger = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parent.parent

NAME = "brain_mri_anomaly_bernoulli_diffusion"
"""Folder in the zip. ``bundle_root`` of the configurations looks for it, too."""

PARTS = ("LICENSE", "configs", "docs", "models", "sample", "scripts")
NEEDED = (
    "LICENSE",
    "configs/metadata.json",
    "configs/inference.json",
    "docs/README.md",
    "docs/data_license.txt",
    "models/LICENSE",
    "models/model.pt",
)
LEFT_OUT_FOLDERS = ("__pycache__", "output", "eval", "mlruns")
LEFT_OUT_ENDINGS = (".pyc", ".partial", ".db", ".log", ".zip")

BASE_PACKAGES = {"torch": "pytorch", "monai": "monai", "numpy": "numpy"}
PACKAGES = "required_packages_version"

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that the format knows."""


def bundle_files(root: Path) -> list[Path]:
    """The files that belong to the bundle in ``root``, sorted by their path.

    Raises:
        FileNotFoundError: when a file is missing that a bundle must have.
    """
    missing = [name for name in NEEDED if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{str(root)!r} is no complete bundle, missing: {', '.join(missing)}.")
    found = [root / name for name in PARTS if (root / name).is_file()]
    for part in PARTS:
        for folder, children, names in os.walk(root / part):
            children[:] = [child for child in children if not _left_out(child, LEFT_OUT_FOLDERS)]
            found += [Path(folder, name) for name in names if not _left_out(name, (), LEFT_OUT_ENDINGS)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _left_out(name: str, names: Sequence[str] = (), endings: tuple[str, ...] = ()) -> bool:
    return name.startswith(".") or name in names or name.endswith(endings)


def make_zip(output: str | os.PathLike, root: Path = BUNDLE_ROOT, name: str = NAME) -> Path:
    """Write the zip, atomically, and return its path.

    Args:
        output: path of the zip; its folder is made.
        root: the bundle's folder.
        name: of the folder in the zip.

    Raises:
        FileNotFoundError: when the bundle is not complete.
        OSError: when the zip cannot be written.
    """
    contents = {path.relative_to(root).as_posix(): path.read_bytes for path in bundle_files(root)}
    contents["requirements.txt"] = requirements(root).encode
    target = Path(output)
    writable_folder(target.resolve().parent, "output")
    with atomic_path(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for inside, read in contents.items():
            entry = zipfile.ZipInfo(f"{name}/{inside}", EPOCH)
            # Everything that a file system may add is fixed: Unix, a plain file, rw-r--r--.
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, read(), zipfile.ZIP_DEFLATED, 9)
    size = target.stat().st_size / 1e6
    logger.info("%s: %d files, %.1f MB, SHA-256 begins with %s", target, len(contents), size, file_hash(target))
    return target


def metadata(root: Path) -> dict[str, Any]:
    """The bundle's ``metadata.json``."""
    return json.loads((root / "configs" / "metadata.json").read_text())


def requirements(root: Path = BUNDLE_ROOT) -> str:
    """What ``pip install -r`` takes: the packages of the metadata, one a line."""
    content = metadata(root)
    pins = {package: content[f"{key}_version"] for package, key in BASE_PACKAGES.items()}
    return "".join(f"{package}=={version}\n" for package, version in (pins | content[PACKAGES]).items())


def default_output(root: Path = BUNDLE_ROOT) -> Path:
    """``output/NAME_vVERSION.zip``, named as the zoo names its releases."""
    return root / "output" / f"{NAME}_v{metadata(root)['version']}.zip"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="the zip; output/NAME_vVERSION.zip in the bundle's folder without")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        make_zip(options.output or default_output())
    except OSError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
