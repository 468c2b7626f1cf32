"""From configured folders to the methods of one table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..scores import Score
from ..writers import ResultWriter
from .sources import ForeignMaps, ImageScore, MapSource, StoredResults

logger = logging.getLogger(__name__)

Folders = str | Sequence[str]


def gather_methods(
    layout: ResultWriter,
    score: Score,
    main: str,
    main_name: str = "masked",
    comparisons: Mapping[str, Folders] | None = None,
    maps_dir: Mapping[str, str] | str | None = None,
    image_scores: Mapping[str, Score] | None = None,
    scores: Mapping[str, Score] | None = None,
) -> dict[str, list[MapSource]]:
    """Sources by the name that they have in the table, the main method first.

    Args:
        layout: knows how images lie in files.
        score: from stored reconstructions to maps, the same for the main method and the comparisons.
        main: result folder of the main method; left out when it holds no results and there is anything else.
        main_name: its name.
        comparisons: by name the result folders of other inferences, several for several sampling seeds; under the
            main method's own name, further seeds of it.
        maps_dir: folder with the maps of another method, or by name the folders of several.
        image_scores: by name scores of the image alone.
        scores: by name other scores of the main method's reconstructions.

    Raises:
        FileNotFoundError: when a folder holds no results.
        ValueError: when two methods have one name, or a comparison no folder.
    """
    stored: dict[str, list[StoredResults]] = {}
    foreign = {"maps_dir": maps_dir} if isinstance(maps_dir, str) else dict(maps_dir or {})
    others = {
        name: [folder] if isinstance(folder, str) else list(folder) for name, folder in (comparisons or {}).items()
    }
    if (Path(main) / "settings.json").is_file() or not (foreign or others):
        stored[main_name] = [StoredResults(main, layout, score)]
    else:
        logger.warning("output_dir %r holds no results: only the other methods are judged", main)
    for name, folders in others.items():
        if not folders:
            raise ValueError(f"comparisons: {name!r} names no folder.")
        stored.setdefault(name, []).extend(StoredResults(folder, layout, score) for folder in folders)
    methods: dict[str, list[MapSource]] = {name: list(sources) for name, sources in stored.items()}
    further: list[tuple[str, MapSource]] = [(name, ForeignMaps(folder, layout)) for name, folder in foreign.items()]
    further += [(name, ImageScore(image_score)) for name, image_score in (image_scores or {}).items()]
    for own in stored.get(main_name, [])[:1]:
        further += [(f"{main_name}, {name}", own.with_score(other)) for name, other in (scores or {}).items()]
    for name, source in further:
        if name in methods:
            raise ValueError(f"several methods are named {name!r}; choose other names.")
        methods[name] = [source]
    return methods
