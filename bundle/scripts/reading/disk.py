"""What stands at a path, asked without opening it: a FIFO would wait for ever, a device never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_problem(path: str | os.PathLike) -> str | None:
    """What keeps ``path`` from being read as a file, in words; ``None`` for a file or a link to one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return (
            f"a broken link to {os.fsdecode(os.readlink(os.fspath(path)))!r}"
            if os.path.islink(path)
            else "no such file"
        )
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in KINDS if is_kind(mode)), "no file")


def check_file(path: str | os.PathLike) -> int:
    """Bytes of the file at ``path``.

    Raises:
        ValueError: saying what stands there instead of a file.
    """
    problem = kind_problem(path)
    if problem:
        raise ValueError(f"{problem}, a file is wanted")
    return Path(path).stat().st_size
