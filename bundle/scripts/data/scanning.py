"""What lies in a folder. What cannot be looked into is reported, not raised: it is one subject's problem."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..reading import kind_problem


def visible(folder: Path) -> list[Path]:
    """What lies in ``folder``, in order, without names that start with a dot, as other systems' leftovers do.

    Raises:
        OSError: when it cannot be listed.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder or a link to one."""
    return kind_problem(path) == "a folder"


def walk(folder: Path, extensions: tuple[str, ...] = ()) -> Iterator[tuple[Path, str | None]]:
    """Everything below ``folder`` that is no folder, at any depth; links to folders are not followed.

    Args:
        folder: where to begin.
        extensions: of files; a folder that is named so is one in a file's place.

    Yields:
        a path, and what is wrong with it, if anything: a folder that cannot be listed or is named like a file.
    """
    errors: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        yield from map(_unlisted, errors)
        errors.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if extensions and name.lower().endswith(extensions):
                yield Path(parent, name), "a folder named like a file"
        yield from ((Path(parent, name), None) for name in sorted(files) if not name.startswith("."))
    yield from map(_unlisted, errors)


def _unlisted(error: OSError) -> tuple[Path, str]:
    return Path(error.filename), listing_problem(error)


def listing_problem(error: OSError) -> str:
    """What keeps a folder from being listed, in words."""
    return f"cannot be listed ({error.strerror or error})"


def files_problem(paths: Sequence[str]) -> str | None:
    """A sentence when one of ``paths`` is something else than a file."""
    found = ((path, kind_problem(path)) for path in paths)
    return next((f"{path}: {problem}, a file is wanted." for path, problem in found if problem), None)


def files_of(path: Path, extensions: tuple[str, ...]) -> tuple[list[Path], str | None]:
    """What is named like a file in the folder ``path``, and what keeps it from being looked into."""
    if not is_folder(path):
        # A link to nowhere was a subject; any other file is none of ours.
        kind = kind_problem(path) or ""
        return [], f"{kind}, a folder or file is wanted" if kind.startswith("a broken link") else None
    try:
        files = [p for p in visible(path) if p.name.lower().endswith(extensions)]
    except OSError as error:
        return [], listing_problem(error)
    named_so = path.name.lower().endswith(extensions) and not files
    return files, "a folder named like a file" if named_so else None


def files_below(folder: Path, extensions: tuple[str, ...]) -> tuple[list[Path], list[dict]]:
    """Files below ``folder`` with one of the extensions, and an item for everything there that is wrong."""
    found = list(walk(folder, extensions))
    paths = sorted(p for p, problem in found if not problem and p.name.lower().endswith(extensions))
    broken = [("_".join(p.relative_to(folder).parts), f"{p}: {problem}.") for p, problem in found if problem]
    return paths, [{"subject": name, "patient": name, "problem": problem} for name, problem in broken]
