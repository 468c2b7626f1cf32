"""The page "Add a method" is followed literally."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from bundle_runner import BUNDLE, ROOT, check_run, environment, run_bundle, write_subject
from warm_process import run_module

PAGE = BUNDLE / "docs" / "add_a_method.md"
TINY = {
    "image_size": 64,
    "amp": False,
    "device": "cpu",
    "num_workers": 0,
    "progress": False,
}


def written_files(page: str) -> dict[str, str]:
    """Path and content of every file that the page shows."""
    return dict(re.findall(r"^`(bundle/[^`]+)`:\n\n```\w+\n(.*?)^```", page, flags=re.M | re.S))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the bundle with the page's files, and data."""
    shutil.copytree(
        BUNDLE, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "__pycache__", "output", "sample")
    )
    files = written_files(PAGE.read_text())
    assert len(files) == 2
    for name, content in files.items():
        path = tmp_path / name
        assert not (ROOT / name).exists()
        path.write_text(content)
    for folder, first in (("train_data", 0), ("labelled_data", 3), ("my_data", 6)):
        for number in range(2):
            write_subject(tmp_path / folder, f"S{number}", first + number)
    return tmp_path


def arguments(line: str) -> tuple[str, list[str], dict[str, str]]:
    """Run id, configuration files and settings of a command of the page."""
    words = shlex.split(line)
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    pairs = dict(zip(words[5::2], words[6::2], strict=True))
    configs = re.findall(r"'([^']+)'", pairs.pop("--config_file"))
    return words[4], configs, {key.removeprefix("--"): value for key, value in pairs.items()}


def test_the_page_works(root: Path):
    lines = re.search(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.S).group(1).strip().splitlines()
    training, calibration, inference = (arguments(line) for line in lines)
    short = {"epoch_length": 2, "max_epochs": 1, "batch_size": 2, "picture_interval": 1}
    run_id, configs, settings = training
    check_run(run_bundle(run_id, configs, cwd=root, **settings, **TINY, **short))
    export = re.search(r"`python -m (scripts.export_model[^`]+)`", PAGE.read_text()).group(1).split()
    check_run(run_module(export[0], export[1:], root / "bundle", environment()))
    for run_id, configs, settings in (calibration, inference):
        check_run(run_bundle(run_id, configs, cwd=root, **settings, **TINY))
    assert (root / "output" / "my_data" / "S0" / "S0_segmentation.nii.gz").is_file()
