"""Files that are either whole or not there: written beside their place, then moved."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What systems say when there is no room: of the disk, of a user's share, of a file."""

FULL_BYTES = 1 << 20
"""A disk with less than this is full, whatever the library says that could not write."""


@contextmanager
def atomic_path(path: str | os.PathLike, what: str = "", private: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder that replaces ``path`` when the block ends without an error.

    When the block has ended, the content is on the disk, and so is its name.

    Args:
        path: the file.
        what: the key that errors name, e.g. ``output_dir``.
        private: nobody but the owner may read it, from the first byte on.

    Raises:
        OSError: with ``errno.ENOSPC`` or its like, naming ``what`` and ``path``, when the disk is full.
    """
    target = Path(path)
    temporary = partial_path(target)
    try:
        with full_disk_named(target, what):
            if private:
                os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: str | os.PathLike, what: str = "") -> Iterator[None]:
    """Errors of writing in ``path``'s folder say so where the disk is full, with the key ``what`` and the path.

    Raises:
        OSError: with the number of the error.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in FULL and not _is_full(Path(path).parent):
            raise
        key, cause = f"{what}: " if what else "", os.strerror(number if number in FULL else errno.ENOSPC)
        raise OSError(number or errno.ENOSPC, f"{key}cannot write {str(path)!r}: {cause}") from None


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_path(target: Path) -> Path:
    """Where this process writes what becomes ``target``, a file or a folder; another process can tell who did."""
    return target.with_name(f".{target.name}.{os.getpid()}-{_started(os.getpid())}.partial")


def _started(pid: int) -> str:
    """When a process began, in the system's own clock, where it tells: numbers of processes come again."""
    try:
        # The name of the program, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def publish_folder(temporary: Path, target: Path, what: str = "output_dir") -> None:
    """Put a folder in the place of ``target``, whole: its files reach the disk before it gets its name.

    Args:
        temporary: the folder, in the same folder as ``target``.
        target: what it becomes; what is there is removed.
        what: the key that errors name.

    Raises:
        OSError: naming ``what`` and ``target`` when the disk is full.
    """
    with full_disk_named(target, what):
        for parent, _, files in os.walk(temporary, topdown=False):
            for name in files:
                _sync(Path(parent, name))
            _sync(Path(parent))
        if target.exists():
            # Two renames, since a folder does not replace another one that holds something.
            old = partial_path(target.with_name(f"{target.name}.old"))
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, target)
        _sync(target.parent)


def remove_stale_partials(folder: Path) -> None:
    """Remove what killed processes of this machine left half written in ``folder``."""
    for path in folder.glob(".*.partial"):
        pid, _, started = path.name.split(".")[-2].partition("-")
        if pid.isascii() and pid.isdecimal() and _is_gone(int(pid), started):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _is_gone(pid: int, started: str) -> bool:
    """Whether there is no process ``pid`` that began at ``started``."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return started not in ("", "0") and _started(pid) not in ("0", started)


def write_json(path: str | os.PathLike, content: object, what: str = "") -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic_path(path, what) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n")


def save_checkpoint(path: str | os.PathLike, state: object, save: Callable = torch.save, what: str = "") -> None:
    """``torch.save``, atomically: whoever reads ``path`` sees the old file or the new one."""
    with atomic_path(path, what) as temporary:
        save(state, temporary)


def load_checkpoint(path: str | os.PathLike, what: str = "weights") -> dict:
    """``torch.load`` of tensors only, on the CPU.

    Raises:
        FileNotFoundError: naming the key ``what`` and the path.
        ValueError: when the file is no checkpoint or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{what}: no file {str(path)!r}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own message advises to read the file unsafely.
        raise ValueError(
            f"{what}: {str(path)!r} is not a readable checkpoint ({type(error).__name__}), "
            "wanted a file of tensors as torch.save writes it."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{what}: {str(path)!r} holds a {type(content).__name__}, a dictionary is wanted.")
    return content


def file_hash(path: str | os.PathLike) -> str:
    """First 16 hexadecimal digits of the file's SHA-256."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]


def writable_folder(path: str | os.PathLike, what: str = "output_dir") -> Path:
    """Create a folder, make sure that files can be written in it and remove what killed runs left there.

    Raises:
        OSError: naming the key ``what`` and the path.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = partial_path(folder / "writable")
        probe.touch()
        probe.unlink()
        remove_stale_partials(folder)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise OSError(f"{what}: cannot write in {str(folder)!r}: {cause}.") from None
    return folder
