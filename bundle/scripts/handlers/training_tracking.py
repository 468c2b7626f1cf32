"""A training's settings, curves, pictures and documents in MLflow, in the run that MONAI's own handlers make."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from ..tracking import EXPERIMENT_KIND, as_parameters, bundle_version, check_server, model_card

if TYPE_CHECKING:
    # MLflow is needed only where a run is tracked.
    from mlflow.entities import RunInfo


class TrainingTracking(MLFlowHandler):
    """What ``--tracking mlflow`` leaves out of a training; it joins MONAI's run by ``run_name``.

    At the start the settings become parameters. After each epoch the columns of ``history.csv`` become curves over
    epochs, called ``epoch/loss`` and so on, and new pictures are sent; a run that resumes a training begins with the
    epochs before it. At the end the history and the model card follow. A training that fails is marked as failed.
    Names of subjects are sent nowhere.

    Args:
        tracking_uri: of the MLflow server or store.
        experiment_name: the run belongs to.
        run_name: of the run, the same as for MONAI's handlers.
        output_dir: folder of the training, with ``history.csv`` and ``pictures``.
        bundle_root: folder of the bundle, with the model card.
        settings: the parameters, any values.
        description: shown on top of the run's page, as Markdown.

    Raises:
        ConnectionError: when no server answers.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str,
        run_name: str,
        output_dir: str,
        bundle_root: str,
        settings: Mapping[str, Any],
        description: str = "",
    ) -> None:
        super().__init__(
            tracking_uri,
            iteration_log=False,
            epoch_logger=self.send_epochs,
            experiment_name=experiment_name,
            run_name=run_name,
            experiment_param=as_parameters({"bundle_version": bundle_version(bundle_root), **settings}),
        )
        check_server(self.client.tracking_uri)
        self.folder, self.description = Path(output_dir), description
        self.documents = [self.folder / "history.csv", self.folder / "history.png", model_card(bundle_root)]
        self._epochs_sent, self._pictures_sent = 0, set[str]()

    def attach(self, engine: Engine) -> None:
        """Register the handler; must come after those that write the history and the pictures."""
        super().attach(engine)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        """Make or join the run, and send the parameters."""
        super().start(engine)
        run = self._run()
        self.client.set_experiment_tag(run.experiment_id, **EXPERIMENT_KIND)
        self.client.set_tag(run.run_id, "mlflow.note.content", self.description)

    def send_epochs(self, engine: Engine) -> None:
        """Send the rows of the history and the pictures that are new."""
        with (self.folder / "history.csv").open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) > self._epochs_sent]
        for row in rows:
            step = self._epochs_sent = int(row.pop("epoch"))
            row.pop("iteration", None)
            self._log_metrics({f"epoch/{name}": float(value) for name, value in row.items() if value}, step)
        for path in sorted((self.folder / "pictures").glob("epoch_*.png")):
            if path.name not in self._pictures_sent:
                self._pictures_sent.add(path.name)
                self.client.log_artifact(self._run().run_id, str(path), "pictures")

    def complete(self) -> None:
        """Send what is whole only now."""
        for path in self.documents:
            if path.is_file():
                self.client.log_artifact(self._run().run_id, str(path))

    def fail(self, engine: Engine, error: Exception) -> None:
        """Mark the run as failed, and let the error go on."""
        if self.cur_run:
            self.client.set_terminated(self._run().run_id, "FAILED")
        raise error

    def _run(self) -> RunInfo:
        if self.cur_run is None:
            raise RuntimeError("The run has not started.")
        return self.cur_run.info

    def _log_params(self, params: dict[str, Any]) -> None:
        # MLflow refuses another value of a parameter that a run has already: joining a run must not end in that.
        params = dict(params)
        self._delete_exist_param_in_dict(params)
        super()._log_params(params)
