"""The bundle's command line in several processes, as torchrun starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle_runner import BUNDLE, ROOT, bundle_command, environment

PATIENCE = 900
"""Seconds until a run counts as hanging; it takes about fifteen, unless the machine is shared."""


def torchrun(
    run_id: str, configs: Sequence[str | Path], processes: int = 2, **overrides
) -> subprocess.CompletedProcess:
    """``torchrun --standalone --nproc_per_node=N -m monai.bundle run``; configs may name what is in ``tests``.

    Raises:
        subprocess.TimeoutExpired: when it hangs.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.run(
        [sys.executable, *launcher, *bundle_command(run_id, configs, **overrides)[1:]],
        cwd=BUNDLE,
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": str(ROOT / "tests")},
        timeout=PATIENCE,
    )
