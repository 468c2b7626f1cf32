"""A bundle folder of the denoising autoencoder, tiny and with random weights, and what ``run inference`` says of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bundle_runner import CONFIGS, check_run, run_bundle
from contract_cases import save_weights, tiny_file

from scripts.make_method_bundle import make_method_bundle

OVERLAY = CONFIGS / "methods" / "denoising_autoencoder.json"
THRESHOLD = 0.7
"""Some of the random network's map lies above it, most does not."""


@dataclass
class MethodBundle:
    """The made folder, and the files that it was made of."""

    folder: Path
    tiny: Path
    weights: Path

    def infer(self, dataset_dir: Path, output_dir: Path, **settings) -> Path:
        """``run inference`` with the overlays themselves, from the bundle that the folder was copied from."""
        configs = ["configs/inference.json", OVERLAY, self.tiny]
        folders = {"weights": self.weights, "dataset_dir": dataset_dir, "output_dir": output_dir}
        check_run(run_bundle("inference", configs, **folders, **settings))
        return output_dir


def denoising_bundle(folder: Path) -> MethodBundle:
    """Make the bundle in ``folder``."""
    tiny, weights = tiny_file(folder, OVERLAY), folder / "random.pt"
    changes = {
        "unet#channels": [8, 16],
        "anomaly_threshold": THRESHOLD,
    }
    tiny.write_text(json.dumps({**json.loads(tiny.read_text()), **changes}))
    save_weights(weights, CONFIGS / "inference.json", OVERLAY, tiny)
    made = make_method_bundle(str(folder / "bundle"), [str(OVERLAY), str(tiny)], str(weights))
    return MethodBundle(made, tiny, weights)
