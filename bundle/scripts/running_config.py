"""Checks of the configuration that is being run, before anything is read or computed.

MONAI hands a component its arguments and nothing else, and takes a mistyped key for a new one. So the parser that is
evaluating, and what the user gave ``monai.bundle run``, are found among the callers.
"""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import ensure_tuple

from .failures import innermost

logger = logging.getLogger(__name__)

OWN_CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def check_configuration(ids: Sequence[str]) -> None:
    """Refuse mistyped keys and settings that their owners refuse, all at once.

    Args:
        ids: of the components whose construction checks their settings.

    Raises:
        ValueError: naming every problem.
    """
    parser = running_parser()
    if parser is None:
        return
    problems = [*unknown_keys(parser)]
    others: list[Exception] = []
    for name in ids:
        try:
            parser.ref_resolver.get_resolved_content(name)
        except Exception as error:
            cause = _first(error)
            if isinstance(cause, (ValueError, OSError)):
                problems.append(innermost(cause).rstrip("."))
            else:
                others.append(error)
    if others and not problems:
        raise others[0]
    # What else failed did so for the settings that are refused.
    if problems:
        message = "settings: " + "; ".join(dict.fromkeys(problems)) + "."
        # Logged too, since MONAI's parser wraps the error in less telling ones.
        logger.error(message)
        raise ValueError(message)


def _first(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def unknown_keys(parser: ConfigParser) -> Iterator[str]:
    """Sentences about keys of the command line that no configuration knows or uses."""
    files, typed = given()
    known = {key for path in files for key in _keys(path)}
    config: Any = parser.config
    used = _used(config)
    for key in typed:
        if key in known and (key in used or not _is_plain(config.get(key))):
            continue
        if key in known:
            yield f"{key} has no effect with these configurations: nothing in them uses it"
            continue
        others = [str(p.relative_to(OWN_CONFIGS)) for p in sorted(OWN_CONFIGS.rglob("*.json")) if key in _keys(p)]
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.5)
        hint = f"it belongs to {' or '.join(others)}, which is not given" if others else ""
        hint = hint or (f"did you mean {near[0]}?" if near else "no known key is like it")
        yield f"unknown key {key!r}, {hint}"


def _is_plain(value: Any) -> bool:
    """Whether a value is a setting, not a component that tools may ask for."""
    return not isinstance(value, (Mapping, list))


def _keys(path: str | Path) -> set[str]:
    """Top-level keys of a configuration file."""
    try:
        return {_top(key) for key in json.loads(Path(path).read_text())}
    except ValueError:
        return {_top(key) for key in ConfigParser.load_config_file(str(path))}


def _top(key: str) -> str:
    return re.split("#|::", key.lstrip("+"))[0]


def _used(config: Any) -> set[str]:
    """Top-level ids that anything refers to."""
    return set(re.findall(r"[@%](\w+)", json.dumps(config, default=str)))


def given() -> tuple[list[str], list[str]]:
    """The configuration files and top-level keys that ``monai.bundle run`` was given; empty when it does not run."""
    for frame in _callers():
        if frame.f_code.co_name == "create_workflow" and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            own = inspect.signature(ConfigWorkflow.__init__).parameters
            keys = {_top(key) for key in frame.f_locals["_args"] if key not in own}
            tracking = frame.f_locals["_args"].get("tracking")
            patched: Any = DEFAULT_EXP_MGMT_SETTINGS["mlflow"]["configs"] if tracking else ()
            keys -= set(patched)
            return [str(path) for path in ensure_tuple(frame.f_locals["config_file"])], sorted(keys)
    return [], []


def running_parser() -> ConfigParser | None:
    """The parser that is evaluating the caller; ``None`` when none is."""
    for frame in _callers():
        owner = frame.f_locals.get("self")
        if isinstance(owner, ConfigParser):
            return owner
    return None


def _callers() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back
