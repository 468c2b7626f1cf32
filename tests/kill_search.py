"""Run a search that is killed with -9 in its fourth cell, half written: ``-m kill_search JSON`` in the bundle's folder.

JSON holds the arguments of ``monai.bundle.run``.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from monai.bundle import run

from scripts.search import cells


def kill_inside_cell() -> None:
    save, calls = cells.np.savez_compressed, []

    def half(stream, **content):
        calls.append(1)
        save(stream, **content)
        if len(calls) == 4:
            stream.truncate(stream.tell() // 2)
            stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    cells.np.savez_compressed = half


if __name__ == "__main__":
    kill_inside_cell()
    run(**json.loads(sys.argv[1]))
