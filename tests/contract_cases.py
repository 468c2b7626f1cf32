"""Every method overlay of the bundle, built tiny: what is listed in the folder is tested, without an edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bundle_runner import CONFIGS
from monai.bundle import ConfigParser

from scripts.export_model import build_network
from scripts.inferers import AnomalyInferer
from scripts.methods import Method
from scripts.networks import Parts

OVERLAYS = sorted((CONFIGS / "methods").glob("*.json"))
SIZE = 64

TINY: dict[str, Any] = {
    "image_size": SIZE,
    "crop_size": SIZE,
    "amp": False,
    "device": "cpu",
    "num_workers": 0,
    "progress": False,
    "num_inference_steps": 2,
    "anomaly_threshold": 0.1,
    "batch_size": 2,
    "epoch_length": 2,
    "max_epochs": 2,
    "picture_interval": 2,
}


def merged(overlay: Path, *others: str) -> dict[str, Any]:
    """The configuration of inference with further files of ``configs``, the method's overlay and tiny sizes."""
    files = [str(CONFIGS / name) for name in ("inference.json", *others)]
    config = ConfigParser.load_config_files([*files, str(overlay)])
    return {**config, **{key: smaller(config.get(key), value) for key, value in TINY.items() if key in config}}


def smaller(configured: Any, tiny: Any) -> Any:
    """A method that takes fewer steps than the tiny ones keeps its own."""
    counts = isinstance(tiny, int) and not isinstance(tiny, bool) and isinstance(configured, int)
    return min(configured, tiny) if counts else tiny


def stages(overlay: Path) -> list[str]:
    """Parts that the overlay says how to train."""
    return list(json.loads(overlay.read_text()).get("stages", {}))


def tiny_file(folder: Path, overlay: Path) -> Path:
    """The tiny sizes as one more overlay; steps only where the method has them."""
    config = merged(overlay, "train.json")
    path = folder / f"tiny_{overlay.stem}.json"
    path.write_text(json.dumps({key: config[key] for key in TINY if key in config}))
    return path


class Case:
    """A method with random weights that do something, and its inferer."""

    def __init__(self, overlay: Path) -> None:
        self.parser = ConfigParser({**merged(overlay), "bundle_root": str(CONFIGS.parent)})
        self.sequences: list[str] = self.parser.get_parsed_content("sequences")
        torch.manual_seed(0)
        self.network: Parts = self.parser.get_parsed_content("network_def").eval()
        stir(self.network)
        self.inferer: AnomalyInferer = self.parser.get_parsed_content("inferer")
        self.method: Method = self.inferer.method

    def slices(self, count: int, seed: int = 0) -> torch.Tensor:
        """Images (count, c, SIZE, SIZE) in [0, 1] with a background of 0."""
        shape = (count, len(self.sequences), SIZE, SIZE)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        images[..., :4, :] = 0
        return images


def stir(network: Parts, std: float = 0.05) -> None:
    """Draw what MONAI starts at zero: an untrained network would otherwise say nothing, and tests with it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.copy_(std * torch.randn(weight.shape, generator=generator))


def save_weights(path: Path, *configs: Path) -> None:
    """Random weights of a configuration's network, as inference loads them."""
    torch.manual_seed(0)
    network = build_network(configs)
    stir(network)
    torch.save({key: value.half() for key, value in network.state_dict().items()}, path)
