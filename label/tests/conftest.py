"""The real MONAI Label server as a subprocess, in an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runner import BUNDLE, ROOT, environment

torch.set_num_threads(1)

START_SECONDS = 300
REQUEST_SECONDS = 1800


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--label-env", type=Path, default=ROOT / ".venv-label", help="what label/setup made")
    parser.addoption("--subject", type=Path, help="folder NAME with NAME_t1.nii.gz and so on, in place of the sample")


class LabelServer:
    """``label/serve.py`` with one bundle and a folder of images, on a free port of this machine.

    Args:
        python: of the environment with MONAI Label.
        bundle: the bundle's folder.
        folder: of this server alone: images, application, temporary files, log.
        name: of the model.
    """

    def __init__(self, python: Path, bundle: Path, folder: Path, name: str) -> None:
        self.python, self.bundle, self.folder, self.name = python, bundle, folder, name
        self.studies, self.log = folder / "studies", folder / "log.txt"
        for path in (self.studies, folder / "home", folder / "temporary"):
            path.mkdir(parents=True, exist_ok=True)

    def start(self) -> LabelServer:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(self.python), str(ROOT / "label" / "serve.py"), "--bundle", str(self.bundle)]
        command += ["--studies", str(self.studies), "--name", self.name, "--app", str(self.folder / "app")]
        command += ["--port", str(self.port)]
        own = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "temporary"), "CUDA_VISIBLE_DEVICES": ""}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env={**environment(), **own}, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.get("info/")
                return self
            except OSError:
                ended = self.process.poll() is not None
                assert not ended and time.monotonic() < end, f"no server:\n{self.log.read_text()[-4000:]}"
                time.sleep(0.5)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=60) as answer:
            return answer.read()

    def infer(
        self, image: str = "", upload: Path | None = None, output: str = "json", session: str = "", **params
    ) -> tuple[int, bytes]:
        """Status and body of a request."""
        query = f"infer/{self.name}?image={image}&session_id={session}&output={output}"
        return self.send("POST", query, {"params": json.dumps(params)}, {"file": upload} if upload else {})

    def send(self, method: str, query: str, fields: Mapping[str, str], files: Mapping[str, Path]) -> tuple[int, bytes]:
        """Status and body of what a form sends."""
        mark, parts = "boundary-of-the-form", [((f'name="{key}"'), text.encode()) for key, text in fields.items()]
        parts += [(f'name="{key}"; filename="{path.name}"', path.read_bytes()) for key, path in files.items()]
        body = b"".join(
            f"--{mark}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
            for head, content in parts
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{query}",
            data=body + f"--{mark}--\r\n".encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={mark}"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def described(self, **request) -> dict:
        """The JSON of a request that must succeed."""
        status, body = self.infer(**request)
        assert status == 200, body.decode()
        return json.loads(body)

    def labelled(self, **request) -> nib.Nifti1Image:
        """The label of a request that must succeed."""
        status, body = self.infer(output="image", **request)
        assert status == 200, body.decode()
        path = self.folder / "label.nii.gz"
        path.write_bytes(body)
        image = nib.load(path)
        return nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header)

    def refused(self, **request) -> str:
        """The reason that a refused request is given."""
        status, body = self.infer(**request)
        assert status in (400, 500), status
        return json.loads(body)["detail"]


@pytest.fixture(scope="session")
def label_python(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--label-env")
    python = folder / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"no MONAI Label in {folder}: make it with `label/setup {folder}`, or name it by --label-env.")
    return python


@pytest.fixture(scope="module")
def serve(label_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LabelServer]]:
    """Starts servers, and stops them all at the end."""
    servers: list[LabelServer] = []

    def start(bundle: Path, name: str) -> LabelServer:
        servers.append(LabelServer(label_python, bundle, tmp_path_factory.mktemp(name), name))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 4D file with the model's sequences: two slices of the sample, or all of ``--subject``."""
    given = request.config.getoption("--subject")
    folder = given or BUNDLE / "sample" / "openms_patient07"
    path = tmp_path_factory.mktemp("volume") / f"{folder.name}.nii.gz"
    return stack(folder, ("t1", "flair", "t1ce"), slice(None) if given else slice(7, 9), path)


def stack(folder: Path, sequences: Sequence[str], slices: slice, path: Path) -> Path:
    """One file of several: (W, H, D, c), or (W, H, D) of one sequence."""
    images = [nib.load(folder / f"{folder.name}_{name}.nii.gz").slicer[:, :, slices] for name in sequences]
    array = np.stack([np.asarray(image.dataobj) for image in images], axis=-1)
    save(array[..., 0] if len(images) == 1 else array, images[0].affine, path)
    return path


def save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """Written beside its place first: a server that watches the folder sees whole files only."""
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
    nib.save(image, partial)
    partial.rename(path)
