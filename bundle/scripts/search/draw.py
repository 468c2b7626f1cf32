"""Which subjects a search looks at."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def draw_subjects(
    datalist: Sequence[Mapping[str, Any]], patients: int | None = None, seed: int = 0
) -> list[Mapping[str, Any]]:
    """The subjects of patients drawn at random among the labelled ones.

    Patients are put in a random order and the first ones taken, so that more of them include those of fewer. Where no
    item names a label, labels are expected inside the image files, and all items count as labelled.

    Args:
        datalist: of the validation data.
        patients: how many; ``None`` for all, and all when there are fewer.
        seed: of the draw.

    Returns:
        items in the order of the data list.

    Raises:
        ValueError: when ``patients`` or ``seed`` is out of range.
    """
    for key, value, low in (("search_subjects", patients, 1), ("search_seed", seed, 0)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
            message = f"{key} must be a whole number of at least {low}, got {value!r}."
            # Logged too, since MONAI's parser wraps the error in less telling ones.
            logger.error(message)
            raise ValueError(message)
    labelled = [item for item in datalist if "label" in item or item.get("healthy")] or list(datalist)
    names = sorted({patient_of(item) for item in labelled})
    if patients is not None and patients > len(names):
        logger.warning("search_subjects is %d, there are %d labelled patients: all are searched", patients, len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[place] for place in order[:patients]}
    drawn = [item for item in labelled if patient_of(item) in chosen]
    logger.info(
        "searching on %d of %d labelled subjects (%d in all): %s",
        len(drawn),
        len(labelled),
        len(datalist),
        ", ".join(str(item["subject"]) for item in drawn),
    )
    return drawn


def patient_of(item: Mapping[str, Any]) -> str:
    """Patient of an item of a data list."""
    return str(item.get("patient", item["subject"]))
