"""Which series of a study is which sequence, by the description that the scanner gave it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .headers import DicomSeries


def match_series(
    series: Sequence[DicomSeries],
    sequences: Sequence[str],
    patterns: Mapping[str, Sequence[str]],
    exclusions: Mapping[str, Sequence[str]],
    modalities: Sequence[str],
    place: str,
) -> list[DicomSeries]:
    """One series for each sequence, in the order of ``sequences``.

    A series is a sequence's when its modality is one of ``modalities``, any of the sequence's patterns is found in its
    description and none of its exclusions is. Both are regular expressions; case does not matter.

    Args:
        series: all series of a subject.
        sequences: names, in the order of the image channels.
        patterns: for each name, what the description must hold.
        exclusions: for each name, what it must not hold; a name may lack.
        modalities: DICOM's codes, e.g. ``MR``.
        place: what errors call the subject, e.g. its folder.

    Raises:
        ValueError: when there is no series for a sequence, or more than one, when one serves two sequences, when they
            belong to several studies, or when a pattern is missing or no regular expression.
    """
    candidates = [s for s in series if s.modality in modalities]
    chosen = []
    for name in sequences:
        wanted, unwanted = _compile(name, patterns.get(name)), _compile(name, exclusions.get(name, []), "exclusions")
        found = [s for s in candidates if _matches(s.description, wanted) and not _matches(s.description, unwanted)]
        if len(found) != 1:
            rule = _rule(name, wanted, unwanted, modalities)
            raise ValueError(f"{place}: {_complaint(name, found, series)} Wanted one, {rule}.")
        chosen.append(found[0])
    _check_one_each(chosen, sequences, place)
    return chosen


def _compile(name: str, patterns: Sequence[str] | None, what: str = "patterns") -> list[re.Pattern]:
    if patterns is None or isinstance(patterns, str):
        raise ValueError(f"series_{what}: {name!r} must be a list of regular expressions, got {patterns!r}.")
    try:
        return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]
    except re.error as error:
        raise ValueError(f"series_{what}: {name!r} holds no regular expression: {error.pattern!r} ({error}).") from None


def _matches(description: str, patterns: Sequence[re.Pattern]) -> bool:
    return any(pattern.search(description) for pattern in patterns)


def _complaint(name: str, found: Sequence[DicomSeries], series: Sequence[DicomSeries]) -> str:
    if found:
        return f"{len(found)} series match sequence {name!r}: {', '.join(map(str, found))}."
    return f"no series for sequence {name!r}; there are {', '.join(map(str, series)) or 'no DICOM images'}."


def _rule(name: str, wanted: Sequence[re.Pattern], unwanted: Sequence[re.Pattern], modalities: Sequence[str]) -> str:
    rule = f"modality {' or '.join(modalities)}, description with {' or '.join(p.pattern for p in wanted)}"
    rule += f" and without {' or '.join(p.pattern for p in unwanted)}" if unwanted else ""
    return f"{rule} (series_patterns#{name}, series_exclusions#{name})"


def _check_one_each(chosen: Sequence[DicomSeries], sequences: Sequence[str], place: str) -> None:
    names: dict[str, list[str]] = {}
    for name, series in zip(sequences, chosen, strict=True):
        names.setdefault(series.uid, []).append(name)
    for series in chosen:
        own = names[series.uid]
        if len(own) > 1:
            raise ValueError(f"{place}: series {series} matches the sequences {', '.join(own)}, wanted one.")
    if len({s.study_uid for s in chosen}) > 1:
        raise ValueError(f"{place}: {', '.join(map(str, chosen))} belong to several studies, wanted one.")
