"""The report's pictures as files of their own."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .curves import curve_pictures
from .panels import Panel, panel_pictures

ENDINGS = {"data:image/png;base64": ".png", "data:image/svg+xml;base64": ".svg"}


def save_pictures(folder: Path, summary: Mapping[str, Any], panels: Sequence[Panel]) -> None:
    """Write curves (``curve_1.svg`` and so on) and slices (``slice_1.png``), in the order of the report.

    Args:
        folder: is there.
        summary: what was measured.
        panels: slices to show.
    """
    slices = [picture for group in panel_pictures(panels).values() for picture in group]
    for kind, pictures in (("curve", curve_pictures(summary)), ("slice", slices)):
        for number, picture in enumerate(pictures, 1):
            head, content = picture.uri.split(",", 1)
            (folder / f"{kind}_{number}{ENDINGS[head]}").write_bytes(base64.b64decode(content))
