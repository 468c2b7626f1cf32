"""Training and validation split by patient: deterministic, written with the run, or read from a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ..files import writable_folder, write_json

logger = logging.getLogger(__name__)

SIDES = ("training", "validation")


def split_datalist(
    datalist: Sequence[dict],
    val_datalist: Sequence[dict] | None = None,
    split_file: str | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    output_file: str | None = None,
) -> dict[str, list[dict]]:
    """Split a data list into ``training`` and ``validation`` so that no patient is in both.

    In order of precedence: a split file, ``{"training": [subjects], "validation": [subjects]}``; a data list of
    its own for validation; else each patient whose hash with the seed, taken as a number in [0, 1), is below
    ``val_fraction``, so that adding patients moves none of the others. Where that leaves a side empty, the patient
    next to the border goes there.

    Args:
        datalist: as the functions of :mod:`scripts.data.datalists` return it.
        val_datalist: validation subjects from another folder.
        split_file: JSON file with the split.
        val_fraction: expected share of patients for validation, in (0, 1); at least one patient, never all.
        seed: of the draw.
        output_file: where the split is written, in the form that ``split_file`` reads.

    Raises:
        FileNotFoundError: when there is no such split file.
        OSError: when the split cannot be written.
        ValueError: when a patient is on both sides, a side is empty, or the split file is no split or names unknown
            subjects.
    """
    if split_file:
        split = _from_file([*datalist, *(val_datalist or [])], split_file)
    elif val_datalist is not None:
        split = {"training": list(datalist), "validation": list(val_datalist)}
    else:
        split = _by_patient(datalist, val_fraction, seed)
    _check(split)
    if output_file:
        writable_folder(Path(output_file).absolute().parent)
        write_json(output_file, {side: [item["subject"] for item in items] for side, items in split.items()})
    logger.info("split: %d subjects for training, %d for validation", *map(len, split.values()))
    return split


def _from_file(datalist: Sequence[dict], split_file: str) -> dict[str, list[dict]]:
    if not Path(split_file).is_file():
        raise FileNotFoundError(f"split_file: no file {split_file!r}.")
    try:
        names = json.loads(Path(split_file).read_text())
    except ValueError as error:
        raise ValueError(f"split_file {split_file!r} is not JSON: {error}.") from error
    if not isinstance(names, dict) or not all(isinstance(names.get(side), list) for side in SIDES):
        raise ValueError(f"split_file {split_file!r} must hold the lists 'training' and 'validation'.")
    by_name = {item["subject"]: item for item in datalist}
    unknown = [str(n) for side in SIDES for n in names[side] if n not in by_name]
    if unknown:
        raise ValueError(f"split_file {split_file!r} names subjects that are not there: {', '.join(unknown[:5])}.")
    return {side: [by_name[n] for n in names[side]] for side in SIDES}


def _by_patient(datalist: Sequence[dict], val_fraction: float, seed: int) -> dict[str, list[dict]]:
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie in (0, 1), got {val_fraction}.")

    def place(patient: str) -> float:
        return int(hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest(), 16) / 2**256

    patients = sorted({item["patient"] for item in datalist}, key=place)
    count = sum(place(patient) < val_fraction for patient in patients)
    chosen = set(patients[: min(max(1, count), len(patients) - 1)])
    return {
        "training": [item for item in datalist if item["patient"] not in chosen],
        "validation": [item for item in datalist if item["patient"] in chosen],
    }


def _check(split: dict[str, list[dict]]) -> None:
    for side, items in split.items():
        if not items:
            raise ValueError(f"the split leaves no subject for {side}: at least two patients are needed.")
    patients = [{item["patient"] for item in items} for items in split.values()]
    both = sorted(patients[0] & patients[1])
    if both:
        raise ValueError(f"patients on both sides of the split: {', '.join(both[:5])}.")
