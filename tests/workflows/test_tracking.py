"""Both trainings and the evaluation, tracked by a real MLflow server on loopback."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bundle_runner import BUNDLE, CONFIGS, base_configs, check_run, environment, run_bundle, tiny_overlay, write_subject
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from mlflow.entities import Run
from monai.bundle import ConfigWorkflow

from scripts.export_model import export_model
from scripts.handlers import TrainingTracking

SUBJECTS = ["Doe_Jane", "Roe_Richard", "Poe_Edgar"]
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


@dataclass
class Server:
    """A running server and its files."""

    uri: str
    folder: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    def runs(self, experiment: str, workflow: str) -> list[Run]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        runs = self.client.search_runs([found.experiment_id])
        return [run for run in runs if run.info.run_name.startswith(workflow)]

    def run(self, experiment: str, workflow: str) -> Run:
        """The only run of a workflow."""
        (run,) = self.runs(experiment, workflow)
        return run

    def points(self, run: Run, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric)]

    def files(self, run: Run) -> dict[str, Path]:
        """Artifacts by their path in the run."""
        folder = self.folder / "artifacts" / run.info.experiment_id / run.info.run_id / "artifacts"
        return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``mlflow server`` with an SQLite store, and its artifacts in a folder."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/store.db", "--artifacts-destination", f"{folder}/artifacts"]
    # Its queue for other jobs is seven more processes.
    env = environment() | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"{uri}/health", process, folder / "log")
        yield Server(uri, folder)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def work(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages and an evaluation, tracked; the evaluation's model is drawn at random."""
    folder = tmp_path_factory.mktemp("work")
    for number, name in enumerate(SUBJECTS):
        write_subject(folder / "data", name, number)
    shared = {"dataset_dir": folder / "data", "tracking": "mlflow", "tracking_uri": server.uri}
    for stage in ("autoencoder", "denoiser"):
        files = [*base_configs(stage), tiny_overlay(folder, stage)]
        extra = {"autoencoder_weights": folder / "autoencoder" / "best.pt"} if stage == "denoiser" else {}
        check_run(run_bundle("training", files, output_dir=folder / stage, **shared, **extra))
    overlay = tiny_overlay(folder, "inference", median_size=3, panels=1, bootstrap_resamples=20, anomaly_threshold=0.2)
    export_model(folder / "model.pt", [CONFIGS / "inference.json", overlay])
    files = ["configs/inference.json", "configs/evaluation.json", overlay]
    settings = {"weights": folder / "model.pt", "output_dir": folder / "out", "calibration_file": folder / "none.json"}
    check_run(run_bundle("evaluation", files, **shared, **settings))
    return folder


@pytest.mark.parametrize(
    ("experiment", "workflow"), [("training", "autoencoder"), ("training", "denoiser"), ("evaluation",) * 2]
)
def test_one_run_a_workflow_says_what_ran(server, work, experiment, workflow):
    run = server.run(experiment, workflow)
    assert re.fullmatch(rf"{workflow} t1\+flair\+t1ce {DATE}", run.info.run_name)
    assert run.info.status == "FINISHED"
    assert run.data.params["bundle_version"] == json.loads((CONFIGS / "metadata.json").read_text())["version"]
    assert run.data.params["sequences"] == "t1, flair, t1ce"
    assert run.data.tags["mlflow.note.content"]
    assert server.files(run)["README.md"].read_bytes() == (BUNDLE / "docs" / "README.md").read_bytes()


@pytest.mark.parametrize(("stage", "metric"), [("autoencoder", "psnr"), ("denoiser", "bce")])
def test_a_training_sends_parameters_curves_and_pictures(server, work, stage, metric):
    run = server.run("training", stage)
    assert (
        run.data.params.items() >= {"learning_rate": "0.0001", "batch_size": "2", "slices.slice_range": "none"}.items()
    )
    assert int(run.data.params["training_subjects"]) + int(run.data.params["validation_subjects"]) == 3
    assert not [key for key, value in run.data.params.items() if "/" in value or "{" in value]

    with (work / stage / "history.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for column in ("loss", f"val_{metric}"):
        expected = [(int(row["epoch"]), pytest.approx(float(row[column]))) for row in rows]
        assert server.points(run, f"epoch/{column}") == expected and len(expected) == 2
    assert [step for step, _ in server.points(run, "train_loss")] == list(range(1, 7))
    assert [step for step, _ in server.points(run, metric)] == [1, 2]

    sent, own = server.files(run), work / stage
    for name in ("pictures/epoch_0001.png", "pictures/epoch_0002.png", "history.csv", "history.png"):
        assert sent[name].read_bytes() == (own / name).read_bytes(), name


def test_an_evaluation_sends_numbers_the_report_and_pictures(server, work):
    run = server.run("evaluation", "evaluation")
    summary = json.loads((work / "out" / "evaluation" / "summary.json").read_text())
    for method, row in summary["table"].items():
        for key, entry in row.items():
            assert run.data.metrics.get(f"{method}/{key}") == (
                None if entry["value"] is None else pytest.approx(entry["value"])
            )
    assert run.data.params["masked/method.noise_level"] == "6" and run.data.params["subjects"] == "3"
    sent = server.files(run)
    for name in ("report.html", "summary.json", "per_slice.csv", "per_subject.csv"):
        assert sent[name].read_bytes() == (work / "out" / "evaluation" / name).read_bytes()
    assert {"pictures/curve_1.svg", "pictures/slice_1.png"} <= set(sent)


def test_nobody_is_named(server, work):
    assert (work / "out" / SUBJECTS[0]).is_dir()
    files = [path for path in server.folder.rglob("*") if path.is_file() and path.name != "log"]
    assert len(files) > 20
    for path in files:
        assert not [name for name in SUBJECTS if name.encode() in path.read_bytes()], path


def tracker(server: Server, folder: Path, name: str, **settings) -> TrainingTracking:
    return TrainingTracking(server.uri, "handlers", name, str(folder), str(BUNDLE), settings)


def write_history(folder: Path, epochs: int) -> None:
    rows = "".join(f"{epoch},{10 * epoch},{1 / epoch},\n" for epoch in range(1, epochs + 1))
    (folder / "history.csv").write_text(f"epoch,iteration,loss,val_psnr\n{rows}")


def test_a_new_run_of_a_resumed_training_has_the_epochs_before(server, tmp_path):
    write_history(tmp_path, 2)
    engine = Engine(lambda *_: {"loss": 1.0})
    handler = tracker(server, tmp_path, "resumed")
    # Each epoch of this engine adds one to the file, as the handler before this one does.
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: write_history(tmp_path, 2 + e.state.epoch))
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    run = server.run("handlers", "resumed")
    assert server.points(run, "epoch/loss") == [(epoch, pytest.approx(1 / epoch)) for epoch in (1, 2, 3, 4)]
    # A metric that was never measured is not sent, nor is the count of iterations.
    assert set(run.data.metrics) == {"epoch/loss"}


def test_a_run_of_the_same_name_goes_on_if_it_is_not_finished(server, tmp_path):
    write_history(tmp_path, 1)
    for rate in (1, 2):
        engine = Engine(lambda *_: {"loss": 1.0})
        tracker(server, tmp_path, "joined", learning_rate=rate).attach(engine)
        engine.run([0], max_epochs=1)
    assert server.run("handlers", "joined").data.params["learning_rate"] == "1"


def test_a_training_that_fails_is_marked_and_its_error_goes_on(server, tmp_path):
    def fail(*_: object) -> None:
        raise ArithmeticError("the loss is not a number")

    engine = Engine(fail)
    tracker(server, tmp_path, "failing").attach(engine)
    with pytest.raises(ArithmeticError, match="not a number"):
        engine.run([0], max_epochs=1)
    assert server.run("handlers", "failing").info.status == "FAILED"


@pytest.mark.parametrize("config", ["autoencoder", "denoiser", "evaluation"])
@pytest.mark.parametrize("stored", [True, False])
def test_tracked_only_where_it_was_asked_for(server, config, stored, tmp_path):
    files = [str(CONFIGS / "inference.json"), str(CONFIGS / f"{config}.json")]
    files = files if config == "evaluation" else [*map(str, base_configs(config))]
    settings = {"save_execute_config": stored, "output_dir": str(tmp_path), "bundle_root": str(BUNDLE)}
    settings["tracking_uri"] = server.uri
    for tracking, expected in ((None, True), ("mlflow", False)):
        flow = ConfigWorkflow(files, tracking=tracking, logging_file=False, **settings)
        flow.parser.parse(reset=True)
        key = "tracking" if config == "evaluation" else "untracked"
        value = flow.parser.get_parsed_content(key)
        assert (value is None if config == "evaluation" else value) is expected
