"""The evaluation's numbers, pictures and files in MLflow."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.handlers import MLFlowHandler

from ..report import Panel, save_pictures
from ..tracking import EXPERIMENT_KIND, as_parameters, bundle_version, check_server, model_card

if TYPE_CHECKING:
    # MLflow is needed only where results are tracked.
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

FILES = ("report.html", "summary.json", "per_slice.csv", "per_subject.csv")


@dataclass(frozen=True)
class MLflowTracking:
    """Where results are tracked.

    Attributes:
        tracking_uri: of the MLflow server or store.
        experiment_name: the run belongs to.
        run_name: ``None`` for the report's title.
        bundle_root: folder of the bundle, for the model card and the version; ``None`` sends neither.
        started: seconds since 1970. A run of this name that began later is gone on with: it is the one that MONAI's own
            handler has made of the inference before.

    Raises:
        ConnectionError: when no server answers.
    """

    tracking_uri: str
    experiment_name: str = "monai_experiment"
    run_name: str | None = None
    bundle_root: str | None = None
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        """Before hours of work, see that the server is there."""
        check_server(self._handler().client.tracking_uri)

    def log(self, summary: Mapping[str, Any], folder: Path, panels: Sequence[Panel] = ()) -> None:
        """One run with settings, every defined number, pictures, and the files of the report.

        Names of metrics are ``method/metric``. Nothing given may hold names of subjects: that is the caller's part.
        """
        handler = self._handler()
        client, name = handler.client, self.run_name or summary["title"]
        experiment = self._experiment(handler)
        run = self._run_of_inference(client, experiment, name) or client.create_run(experiment, run_name=name)
        self._send(client, run.info.run_id, summary, folder, panels)
        client.set_terminated(run.info.run_id)
        logger.info("tracked in %s, experiment %s, run %s", client.tracking_uri, self.experiment_name, name)

    def _handler(self) -> MLFlowHandler:
        # MONAI's handler decides which server it is, and where the files of a local database go.
        return MLFlowHandler(self.tracking_uri)

    def _experiment(self, handler: MLFlowHandler) -> str:
        found = handler.client.get_experiment_by_name(self.experiment_name)
        new = handler.client.create_experiment
        id_ = found.experiment_id if found else new(self.experiment_name, handler.artifact_location)
        handler.client.set_experiment_tag(id_, **EXPERIMENT_KIND)
        return id_

    def _run_of_inference(self, client: MlflowClient, experiment: str, name: str) -> Run | None:
        runs = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
        since = 1000 * self.started
        return next((r for r in runs if r.info.run_name == name and r.info.start_time >= since), None)

    def _send(
        self, client: MlflowClient, run: str, summary: Mapping[str, Any], folder: Path, panels: Sequence[Panel]
    ) -> None:
        from mlflow.entities import Metric, Param

        client.set_tag(run, "mlflow.note.content", describe(summary))
        now = int(1000 * time.time())
        metrics = [Metric(key, value, now, 0) for key, value in defined_numbers(summary).items()]
        client.log_batch(run, metrics, [Param(key, text) for key, text in self._parameters(summary).items()])
        for path in self._files(folder):
            client.log_artifact(run, str(path))
        with tempfile.TemporaryDirectory() as pictures:
            save_pictures(Path(pictures), summary, panels)
            client.log_artifacts(run, pictures, "pictures")

    def _parameters(self, summary: Mapping[str, Any]) -> dict[str, str]:
        version = {"bundle_version": bundle_version(self.bundle_root)} if self.bundle_root else {}
        own = {**version, **summary["settings"], "methods": list(summary["methods"]), **summary["data"]}
        methods = {f"{allowed(name)}/": method["settings"] for name, method in summary["methods"].items()}
        described = [as_parameters(settings, prefix) for prefix, settings in methods.items()]
        return {key: value for group in (as_parameters(own), *described) for key, value in group.items()}

    def _files(self, folder: Path) -> list[Path]:
        card = [model_card(self.bundle_root)] if self.bundle_root else []
        return [path for path in [*(folder / name for name in FILES), *card] if path.is_file()]


def defined_numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """Every value of the table that is defined, by ``method/metric``."""
    return {
        f"{allowed(method)}/{key}": entry["value"]
        for method, row in summary["table"].items()
        for key, entry in row.items()
        if entry["value"] is not None
    }


def describe(summary: Mapping[str, Any]) -> str:
    """What stands on top of the run's page, as Markdown: title, data, warnings."""
    data = summary["data"]
    lines = [
        f"**{summary['title']}**",
        f"{data['subjects']} subjects, {data['slices']} slices, {data['diseased_slices']} of them with a lesion. "
        "report.html has tables and curves; names of subjects are codes.",
        *(f"- {note}" for note in summary["notes"]),
    ]
    return "\n\n".join(lines)


def allowed(name: str) -> str:
    """``name`` with what MLflow does not take in names replaced."""
    return "".join(c if c.isalnum() or c in "_-. " else "_" for c in name)
