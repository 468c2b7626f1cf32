"""The bundle as a zip: what is in it, that its bytes can be had again, and its use from another folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import BUNDLE, ROOT, check_run, environment

from scripts import make_zip as module
from scripts.make_zip import NAME, bundle_files, default_output, main, make_zip, requirements

PAGE = BUNDLE / "docs" / "install.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the zip, made by the documented command, and nothing else."""
    folder = tmp_path_factory.mktemp("elsewhere")
    command = [sys.executable, "-m", "scripts.make_zip", "--output", str(folder / default_output().name)]
    check_run(subprocess.run(command, cwd=BUNDLE, capture_output=True, text=True, env=environment()))
    return folder


def small_bundle(folder: Path) -> Path:
    """The files that a bundle must have, and some that must not be packed."""
    for name in module.NEEDED:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((BUNDLE / name).read_bytes() if name.endswith("metadata.json") else name.encode())
    for name in (
        "output/inference/S/S_anomaly.nii.gz",
        "eval/config.json",
        "scripts/__pycache__/a.cpython-311.pyc",
        "scripts/.b.py.swp",
        "models/.model.pt.123.partial",
        "sample/.hidden/a.txt",
        "mlruns.db",
        "stray.txt",
        "configs/old.zip",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_holds_every_file_of_the_bundle_and_no_other(folder):
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        assert archive.testzip() is None
        names = {name.removeprefix(f"{NAME}/") for name in archive.namelist()}
    there = {path.relative_to(BUNDLE) for path in BUNDLE.rglob("*") if path.is_file()}
    made = {path for path in there if {"output", "eval", "__pycache__"} & set(path.parts) or path.name[0] == "."}
    assert names == {path.as_posix() for path in there - made} | {"requirements.txt"}


def test_results_caches_and_half_written_files_stay_out(tmp_path):
    root = small_bundle(tmp_path)
    assert {path.relative_to(root).as_posix() for path in bundle_files(root)} == set(module.NEEDED)


def test_the_same_files_give_the_same_bytes(tmp_path):
    root = small_bundle(tmp_path / "bundle")
    first = make_zip(tmp_path / "first.zip", root).read_bytes()
    for number, path in enumerate(bundle_files(root)):
        os.utime(path, (number * 1e6, number * 2e6))
        path.chmod(0o700)
    assert make_zip(tmp_path / "second.zip", root).read_bytes() == first
    (root / "LICENSE").write_text("another")
    assert make_zip(tmp_path / "third.zip", root).read_bytes() != first


def test_an_incomplete_bundle_is_refused(tmp_path, capsys, monkeypatch):
    root = small_bundle(tmp_path / "bundle")
    (root / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no complete bundle, missing: models/model\.pt"):
        make_zip(tmp_path / "a.zip", root)
    monkeypatch.setattr(module, "bundle_files", lambda _: bundle_files(root))
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "a.zip")])
    assert "models/model.pt" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip"))


def test_requirements_are_those_of_the_repository(folder):
    pins = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert set(requirements().split()) == pins
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        assert archive.read(f"{NAME}/requirements.txt").decode() == requirements()


def test_the_documented_lines_work_in_an_empty_folder(folder):
    use = PAGE.read_text().split("## Use it")[1]
    (shell,) = re.findall(r"```bash\n(.*?)```", use, re.S)
    (program,) = re.findall(r"```python\n(.*?)```", use, re.S)
    # Nothing but the zip is there, and nothing of the repository on the path.
    assert len(list(folder.iterdir())) == 1
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    assert run(["bash", "-euo", "pipefail", "-c", shell], folder, env)
    program += "import os, scripts, torch\nprint('code of', os.path.realpath(scripts.__file__))\n"
    program += "torch.save(network.state_dict(), 'network.pt')\n"
    assert f"code of {(folder / NAME).resolve()}/scripts" in run([sys.executable, "-c", program], folder, env)

    maps = [
        np.asarray(nib.load(next((folder / name).glob("*/*_anomaly.nii.gz"))).dataobj)
        for name in ("results", "results_of_python")
    ]
    assert np.array_equal(*maps) and np.flatnonzero(maps[0].any(axis=(0, 1))).tolist() == [5, 6]
    loaded = torch.load(folder / "network.pt", weights_only=True)
    shipped = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert loaded.keys() == shipped.keys()
    assert all(torch.equal(loaded[key], value.to(loaded[key])) for key, value in shipped.items())


def run(command: list[str], cwd: Path, env: dict[str, str]) -> str:
    return check_run(subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env))
