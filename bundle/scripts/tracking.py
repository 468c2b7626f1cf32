"""What the tracked workflows share: names of runs, parameters that can be read, and a server that answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_VALUE = 500
"""Characters that every MLflow server keeps of a parameter."""

SECONDS_TO_ANSWER = 10


def run_name(workflow: str, sequences: Sequence[str]) -> str:
    """What ran, on what, and when it began: ``autoencoder t1+flair+t1ce 2026-11-21 10:15:03``."""
    return f"{workflow} {'+'.join(sequences)} {time.strftime('%Y-%m-%d %H:%M:%S')}"


def as_parameters(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings as texts that people read.

    Args:
        settings: any values; dictionaries in it give names such as ``score.sigma``, lists of them
            names such as ``map_postprocessing.SmoothSlicesd.median_size``.
        prefix: put before each name.
    """
    parameters = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            parameters.update(as_parameters(value, f"{prefix}{key}."))
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            # Things that describe themselves, one after the other, such as transforms: told by their names.
            named = {
                str(item.get("name", place)) if isinstance(item, Mapping) else str(place): item
                for place, item in enumerate(value)
            }
            parameters.update(as_parameters(named, f"{prefix}{key}."))
        else:
            parameters[f"{prefix}{key}"] = as_text(value)[:LONGEST_VALUE]
    return parameters


def as_text(value: Any) -> str:
    """A value as people write it: ``none``, ``true``, ``0.001``, ``t1, flair``."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return str(value)


def bundle_version(bundle_root: str) -> str:
    """The version in the bundle's metadata."""
    return str(json.loads(Path(bundle_root, "configs", "metadata.json").read_text())["version"])


def model_card(bundle_root: str) -> Path:
    """The bundle's model card."""
    return Path(bundle_root, "docs", "README.md")


def check_server(tracking_uri: str) -> None:
    """Ask a server at ``http`` or ``https`` once; MLflow itself would go on trying for minutes.

    Raises:
        ConnectionError: when nothing answers.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(tracking_uri, timeout=SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        pass  # It wants credentials or another page, but it is there.
    except OSError as error:
        raise ConnectionError(
            f"tracking_uri: no server answers at {tracking_uri!r} ({error}); start it, or give the address of another."
        ) from error
