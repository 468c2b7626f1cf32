"""Join the weights of a network's parts into the one model that inference loads.

Run in the bundle's folder::

    python -m scripts.export_model --autoencoder output/autoencoder/best.pt --denoiser output/denoiser/best.pt \
        --output models/model.pt

``best.pt`` holds moving averages of weights. Parts without a file are drawn at random,
to try a configuration out; parts of other methods are given by ``--part NAME FILE``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DiffusionModelUNet

from .files import save_checkpoint, writable_folder
from .networks import Parts
from .networks.weights import load_weights

logger = logging.getLogger(__name__)

BUNDLE_ROOT = Path(__file__).resolve().parent.parent


def build_network(config_files: Sequence[str | os.PathLike]) -> Parts:
    """The ``network_def`` of an inference configuration and its overlays, with fresh weights on the CPU."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in config_files])
    parser["device"] = "cpu"
    return parser.get_parsed_content("network_def")


def randomise_last_layer(denoiser: DiffusionModelUNet, seed: int, std: float = 0.05) -> None:
    """Draw the denoiser's last layer, which MONAI starts at zero: then eps_hat is 1/2 and no bit is ever masked."""
    generator = torch.Generator().manual_seed(seed)
    weight = [p for p in denoiser.out.parameters() if p.ndim > 1][-1]
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def export_model(
    output: str | os.PathLike,
    config_files: Sequence[str | os.PathLike],
    parts: Mapping[str, str] | None = None,
    seed: int = 0,
    half: bool = True,
) -> Parts:
    """Write the joined state dict, atomically, and return the network.

    Args:
        output: path of the model.
        config_files: inference configuration and overlays with the networks' sizes.
        parts: by name of a part its file of weights; random where there is none.
        seed: of random weights.
        half: store in half precision.

    Raises:
        FileNotFoundError, ValueError: when a file of weights is missing or does not fit.
    """
    torch.manual_seed(seed)
    network = build_network(config_files)
    given = dict(parts or {})
    for name, module in network.named_children():
        path = given.pop(name, None)
        if path is not None:
            load_weights(module, path, name, part=name)
            continue
        logger.warning("no weights for the %s: random ones with seed %d", name, seed)
        if isinstance(module, DiffusionModelUNet):
            randomise_last_layer(module, seed)
    if given:
        raise ValueError(
            f"the network has no part {', '.join(given)}, it has {', '.join(dict(network.named_children()))}."
        )
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in network.state_dict().items()}
    writable_folder(Path(output).resolve().parent, "output")
    save_checkpoint(output, state)
    count = sum(v.numel() for v in state.values())
    logger.info("%s: %d parameters, %.1f MB", output, count, Path(output).stat().st_size / 1e6)
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", help="weights of that part (best.pt, or a joined model)")
    parser.add_argument("--denoiser", help="weights of that part")
    parser.add_argument("--part", nargs=2, action="append", default=[], metavar=("NAME", "FILE"), help="of any other")
    parser.add_argument("--output", required=True, help="the joined model")
    parser.add_argument(
        "--config", nargs="+", default=[str(BUNDLE_ROOT / "configs" / "inference.json")],
        help="inference configuration and overlays with the networks' sizes",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--full-precision", action="store_true", help="store float32")
    options = parser.parse_args(arguments)
    parts = [("autoencoder", options.autoencoder), ("denoiser", options.denoiser), *options.part]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        export_model(
            options.output, options.config, {name: path for name, path in parts if path}, options.seed,
            half=not options.full_precision,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
