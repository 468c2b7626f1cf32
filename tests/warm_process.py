"""``python -m module`` in a process that has imported the libraries already.

Importing PyTorch and MONAI takes longer than most runs of the tiny networks, and there are dozens of runs. So each is
forked from a process that has the libraries loaded (and nothing of the bundle), and then is what ``python -m`` would
have made it: same arguments, folder, environment, module path, exit status and output. Two things are not: variables
that libraries read when they are loaded are those of the tests, and all forks order their sets alike. Where two runs
must be equal, let one of them be a real process.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# Libraries read them when they are loaded; for the reason see conftest.py.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

LIBRARIES = ["fire", "ignite", "matplotlib.pyplot", "mlflow", "monai.bundle", "nibabel", "pandas", "pydicom"]
LIBRARIES += ["scipy.ndimage", "sklearn.metrics", "skimage.measure", "torch._dynamo", "torch._inductor"]

# Elsewhere forking is not there, or not safe once libraries with threads of their own are loaded.
FORKS = sys.platform == "linux"
CONTEXT = multiprocessing.get_context("forkserver" if FORKS else None)
if FORKS:
    CONTEXT.set_forkserver_preload(LIBRARIES)


def run_module(
    module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What ``subprocess.run([sys.executable, "-m", module, *arguments], ...)`` gives, with its output as text."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if not FORKS:
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    path = [str(Path(cwd).resolve()), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *own_path()]
    with tempfile.TemporaryDirectory() as folder:
        printed = [Path(folder) / name for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=become, args=(module, command[3:], str(cwd), dict(env), path, printed))
        process.start()
        process.join()
        return subprocess.CompletedProcess(command, process.exitcode, *[p.read_text() for p in printed])


@functools.cache
def own_path() -> list[str]:
    """Where a fresh interpreter looks for modules, without the places that pytest adds."""
    program = "import json, sys; print(json.dumps(sys.path))"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    printed = subprocess.run([sys.executable, "-P", "-c", program], env=env, capture_output=True, check=True).stdout
    return json.loads(printed)


def become(
    module: str, arguments: list[str], cwd: str, env: dict[str, str], path: list[str], printed: list[Path]
) -> None:
    """Turn this process, a fork, into ``python -m module``."""
    for stream, file in zip((1, 2), printed, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [module, *arguments]
    sys.path[:] = path
    # A fork would start its own processes, such as those of a loader, as it was started itself.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    seed_as_at_start()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A fork of multiprocessing leaves them out.
        atexit._run_exitfuncs()


def seed_as_at_start() -> None:
    """Forks of one process would otherwise draw the same numbers, and unseeded runs look as if they were seeded."""
    import numpy as np
    from monai.transforms import Randomizable

    random.seed()
    np.random.seed()
    Randomizable.R = np.random.RandomState()
