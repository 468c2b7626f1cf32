"""Inference over subjects of which some may be broken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monai.data import list_data_collate
from monai.engines import SupervisedEvaluator
from torch.utils.data import Dataset

from .failures import SubjectFailures, innermost

logger = logging.getLogger(__name__)


class SubjectDataset(Dataset):
    """Preprocessed subjects; one that cannot be read becomes its error.

    Args:
        data: data list.
        preprocessing: from an item of it to its images.
        keys: what is passed on of a preprocessed item.
    """

    def __init__(
        self, data: Sequence[dict], preprocessing: Callable, keys: Sequence[str] = ("subject", "image", "label")
    ) -> None:
        self.data, self.preprocessing, self.keys = data, preprocessing, keys

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The preprocessed subject, or ``subject`` and ``error``."""
        item = {k: v for k, v in self.data[index].items() if k != "label" or "label" in self.keys}
        try:
            result = self.preprocessing(item)
        except Exception as error:
            # In words: an error that travels from a worker process loses its cause on the way.
            return {"subject": item["subject"], "error": innermost(error)}
        return {key: result[key] for key in self.keys if key in result}


def collate_subjects(items: Sequence[dict]) -> dict[str, Any]:
    """MONAI's collation of the subjects that could be read, and the ``errors`` of those that could not."""
    good = [item for item in items if "error" not in item]
    errors = [(item["subject"], item["error"]) for item in items if "error" in item]
    return {**(list_data_collate(good) if good else {}), "errors": errors}


class SubjectEvaluator(SupervisedEvaluator):
    """``SupervisedEvaluator`` that notes what went wrong with a subject and goes on with the next.

    Args:
        failures: where errors are noted; the run ends with its ``raise_if_any``.
        args, kwargs: of ``SupervisedEvaluator``.
    """

    def __init__(self, *args: Any, failures: SubjectFailures, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures = failures

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Mapping[str, Any]) -> Any:
        """One batch of subjects, without those that failed before or fail now."""
        batch = dict(batchdata)
        for subject, error in batch.pop("errors"):
            self.failures.add(subject, error)
        engine.state.batch = batch
        if "image" not in batch:
            return []
        engine.state.iteration_started = start = time.perf_counter()
        try:
            output = super()._iteration(engine, batch)
            self._log_time(batch["subject"], time.perf_counter() - start)
            return output
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("unexpected error")
            for subject in batch["subject"]:
                self.failures.add(subject, error)
            return []

    def _log_time(self, subjects: Sequence[str], seconds: float) -> None:
        """Say what the batch took, from the images on the device to the files."""
        count = sum(int(item["processed"].sum()) for item in self.state.output if "processed" in item)
        if count:
            names = ", ".join(subjects)
            logger.info("%s: %d slices in %.1f s, %.2f s a slice", names, count, seconds, seconds / count)
