"""The bundle's own inference workflow, run as ``python -m monai.bundle run inference`` runs it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow


def find_bundle(path: Path) -> Path:
    """The bundle's folder: ``path`` itself or, as in a packaged application, its one sub-folder that is a bundle.

    Raises:
        ValueError: when there is none, or more than one.
    """
    found = [p for p in (path, *sorted(path.glob("*/"))) if (p / "configs" / "metadata.json").is_file()]
    if len(found) != 1:
        raise ValueError(f"model: {len(found)} bundles in {str(path)!r}, wanted a folder with configs/metadata.json.")
    return found[0].resolve()


class Bundle:
    """A bundle's folder, and settings that differ from its configuration.

    Args:
        root: the folder.
        settings: keys of ``configs/inference.json`` or ``configs/data/dicom.json``, nested ones with ``#``, and values.

    Raises:
        ValueError: when a setting's name is in neither file.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.root, self.settings = root, dict(settings)
        self.metadata: dict[str, Any] = self._config("metadata")
        # MONAI accepts a mistyped key without a word.
        unknown = {key.split("#")[0] for key in self.settings} - {
            *self._config("inference"),
            *self._config("data/dicom"),
        }
        if unknown:
            raise ValueError(f"app.yaml: bundle: settings: the bundle knows no {', '.join(sorted(unknown))}.")
        if str(root) not in sys.path:
            sys.path.insert(1, str(root))

    def _config(self, name: str) -> dict[str, Any]:
        return json.loads((self.root / "configs" / f"{name}.json").read_text())

    def script(self, name: str) -> Any:
        """A module of the bundle's ``scripts``."""
        return importlib.import_module(f"scripts.{name}")

    def holds_volumes(self, folder: Path) -> bool:
        """Whether any file at any depth is NIfTI or another volume that the bundle reads."""
        extensions = self.script("data.datalists").VOLUME_EXTENSIONS
        return any(path.name.lower().endswith(extensions) for path in folder.rglob("*") if path.is_file())

    def workflow(self, overlays: Sequence[str], **overrides: Any) -> ConfigWorkflow:
        """The inference workflow with overlays of the bundle, not initialised.

        Args:
            overlays: names of files in ``configs``, without extension.
            overrides: settings of this run.
        """
        configs = self.root / "configs"
        return ConfigWorkflow(
            [str(configs / f"{name}.json") for name in ("inference", *overlays)],
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            run_id="inference",
            bundle_root=str(self.root),
            **{**self.settings, **overrides},
        )

    def run(self, overlays: Sequence[str], **overrides: Any) -> list[dict[str, Any]]:
        """Run inference; returns what the evaluator put out for the last batch of subjects.

        Raises:
            ValueError: when a subject failed; the others' results are written.
        """
        flow = self.workflow(overlays, **overrides)
        flow.initialize()
        parser = flow.parser
        evaluator = parser.get_parsed_content("evaluator")
        evaluator.run()
        failures = parser.get_parsed_content("failures").messages
        if failures:
            raise ValueError("; ".join(f"subject {name} failed: {message}" for name, message in failures.items()))
        return evaluator.state.output
