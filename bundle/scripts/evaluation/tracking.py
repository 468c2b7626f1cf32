"""The evaluation's numbers and files in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.utils import path_to_uri

logger = logging.getLogger(__name__)

FILES = ("report.html", "summary.json", "per_slice.csv", "per_subject.csv")
LONGEST_VALUE = 500
"""Characters that MLflow keeps of a parameter."""


@dataclass(frozen=True)
class MLflowTracking:
    """Where results are tracked.

    Attributes:
        tracking_uri: of the MLflow server or store.
        experiment_name: the run belongs to.
        run_name: ``None`` for the report's title.
    """

    tracking_uri: str
    experiment_name: str = "monai_experiment"
    run_name: str | None = None

    def log(self, summary: Mapping[str, Any], folder: Path) -> None:
        """One run with settings, every defined number, and the files of the report.

        Names of metrics are ``method/metric``. The files must hold no names of subjects: that is the caller's part.
        """
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        if mlflow.get_experiment_by_name(self.experiment_name) is None:
            mlflow.create_experiment(self.experiment_name, artifact_location=artifact_location(self.tracking_uri))
        mlflow.set_experiment(self.experiment_name)
        with mlflow.start_run(run_name=self.run_name or summary["title"]):
            parameters = {**summary["settings"], "methods": list(summary["methods"]), **summary["data"]}
            mlflow.log_params({key: str(value)[:LONGEST_VALUE] for key, value in parameters.items()})
            mlflow.log_metrics(
                {
                    f"{allowed(method)}/{key}": entry["value"]
                    for method, row in summary["table"].items()
                    for key, entry in row.items()
                    if entry["value"] is not None
                }
            )
            for name in _existing(folder, FILES):
                mlflow.log_artifact(str(folder / name))
        logger.info("tracked in %s, experiment %s", self.tracking_uri, self.experiment_name)


def artifact_location(tracking_uri: str) -> str | None:
    """Where files go: beside a local database, as MONAI's handler has it; elsewhere the server decides."""
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        return None
    return path_to_uri(Path(tracking_uri[len(prefix) :]).absolute().parent / "mlruns")


def allowed(name: str) -> str:
    """``name`` with what MLflow does not take in names replaced."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)


def _existing(folder: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if (folder / name).is_file()]
