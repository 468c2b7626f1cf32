"""Bring checkpoints that were trained with the paper authors' code to this bundle.

From the bundle's folder::

    python -m scripts.convert_checkpoint --autoencoder binaryae_ema.th --denoiser unet.pt --output models/model.pt

writes ``model.pt``, the state dict of :class:`~scripts.networks.Parts`, and beside it ``model.json``,
a config overlay with the network sizes, the noise process and the path of the weights.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from monai.networks.nets import DiffusionModelUNet

from .converters.authors_checkpoint import AuthorsCheckpoint
from .converters.masked_bernoulli import (
    autoencoder_key,
    autoencoder_sizes,
    denoiser_key,
    denoiser_sizes,
)
from .files import save_checkpoint, writable_folder, write_json
from .networks import BinarizingAutoencoder, Parts

logger = logging.getLogger(__name__)

SCHEDULERS = {"decay": "DecayBernoulliScheduler", "symmetric": "BernoulliScheduler"}
"""Noise processes by the name of the option; the authors' released code trains with the first."""
SCHEDULE = {"num_train_timesteps": 1000, "schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02}
"""The authors' noise schedule, which is the paper's."""
AUTHORS_SEQUENCES = ["t1", "t1ce", "t2", "flair"]
"""Image channels in the order of the authors' BraTS data."""


def convert_autoencoder(
    checkpoint: AuthorsCheckpoint, dtype: torch.dtype, norm_num_groups: int = 32, norm_eps: float = 1e-6
) -> tuple[BinarizingAutoencoder, dict[str, torch.Tensor], dict]:
    """Empty network, state dict and constructor arguments of the authors' autoencoder.

    Raises:
        ValueError: when the checkpoint or ``norm_num_groups`` does not fit.
    """
    arguments = checkpoint.sizes(autoencoder_sizes)
    widths = [*arguments["channels"], arguments["embedding_channels"]]
    _check_divides("--autoencoder-norm-groups", norm_num_groups, widths)
    arguments |= {"norm_num_groups": norm_num_groups, "norm_eps": norm_eps}
    network = BinarizingAutoencoder(**arguments)
    return network, checkpoint.fill(network, autoencoder_key, dtype), arguments


def convert_denoiser(
    checkpoint: AuthorsCheckpoint,
    dtype: torch.dtype,
    heads: int = 1,
    norm_num_groups: int = 32,
    norm_eps: float = 1e-5,
) -> tuple[DiffusionModelUNet, dict[str, torch.Tensor], dict]:
    """Empty network, state dict and constructor arguments of the authors' U-Net with ``heads`` attention heads.

    Raises:
        ValueError: when the checkpoint, ``heads`` or ``norm_num_groups`` does not fit.
    """
    sizes = checkpoint.sizes(denoiser_sizes)
    channels, levels = sizes["channels"], sizes["attention_levels"]
    _check_divides("--denoiser-norm-groups", norm_num_groups, channels)
    # The middle block has the last level's width and attention whatever the level has.
    _check_divides("--heads", heads, [n for n, has in zip(channels, levels, strict=True) if has] + channels[-1:])
    arguments = {
        "spatial_dims": 2,
        **sizes,
        "num_head_channels": [width // heads for width in channels],
        "norm_num_groups": norm_num_groups,
        "norm_eps": norm_eps,
        "include_fc": True,
    }
    network = DiffusionModelUNet(**arguments)
    name = partial(denoiser_key, num_res_blocks=sizes["num_res_blocks"], attention_levels=levels)
    return network, checkpoint.fill(network, name, dtype, heads), arguments


def make_overlay(autoencoder: dict, denoiser: dict, noise: str, weights: Path) -> dict:
    """Config overlay for converted weights.

    Args:
        autoencoder: arguments of :class:`~scripts.networks.BinarizingAutoencoder`.
        denoiser: arguments of ``DiffusionModelUNet``.
        noise: a key of :data:`SCHEDULERS`.
        weights: file of the converted state dict.
    """
    overlay = {
        "weights": str(weights.resolve()),
        "autoencoder": {"_target_": "scripts.networks.BinarizingAutoencoder", **autoencoder},
        "denoiser": {"_target_": "DiffusionModelUNet", **denoiser},
        "scheduler": {"_target_": f"scripts.schedulers.{SCHEDULERS[noise]}", **SCHEDULE},
        "anomaly_map": {"_target_": "scripts.scores.squared_residual", "_mode_": "callable"},
    }
    if autoencoder["in_channels"] == len(AUTHORS_SEQUENCES):
        overlay["sequences"] = AUTHORS_SEQUENCES
    return overlay


def convert(options: argparse.Namespace) -> Path:
    """Convert what the command line's ``options`` name, and return the overlay's path.

    Raises:
        OSError: when a file cannot be read or written.
        ValueError: when a checkpoint or an option does not fit.
    """
    output, overlay_path = options.output, options.output.with_suffix(".json")
    if output.resolve() in (path.resolve() for path in (overlay_path, options.autoencoder, options.denoiser)):
        raise ValueError(f"--output: {str(output)!r} is an input or the overlay's name, wanted another file.")
    dtype = torch.float16 if options.half else torch.float32
    checkpoint = AuthorsCheckpoint(options.autoencoder, "--autoencoder")
    norm = options.autoencoder_norm_groups, options.autoencoder_norm_eps
    autoencoder, autoencoder_state, autoencoder_arguments = convert_autoencoder(checkpoint, dtype, *norm)
    checkpoint = AuthorsCheckpoint(options.denoiser, "--denoiser")
    norm = options.denoiser_norm_groups, options.denoiser_norm_eps
    denoiser, denoiser_state, denoiser_arguments = convert_denoiser(checkpoint, dtype, options.heads, *norm)
    bits, channels = autoencoder_arguments["code_channels"], (denoiser.in_channels, denoiser.out_channels)
    if channels != (bits, bits):
        raise checkpoint.error(f"channels in and out are {channels}, wanted the autoencoder's {bits} code channels.")
    state = _joined(autoencoder=autoencoder_state, denoiser=denoiser_state)
    Parts(autoencoder=autoencoder, denoiser=denoiser).load_state_dict(state)
    writable_folder(output.parent, "--output")
    save_checkpoint(output, state)
    write_json(overlay_path, make_overlay(autoencoder_arguments, denoiser_arguments, options.noise, output))
    logger.info("wrote %s and the config overlay %s.", output, overlay_path)
    return overlay_path


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.convert_checkpoint", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--autoencoder", type=Path, required=True, help="the authors' autoencoder, binaryae_ema_*.th")
    parser.add_argument("--denoiser", type=Path, required=True, help="the authors' U-Net, *.pt")
    parser.add_argument("--output", type=Path, required=True, help="file to write, such as models/model.pt")
    parser.add_argument("--half", action=argparse.BooleanOptionalAction, default=True, help="store float16")
    parser.add_argument(
        "--noise", choices=list(SCHEDULERS), default="decay", help="noise that the U-Net was trained with"
    )
    parser.add_argument("--heads", type=_positive, default=1, help="attention heads of the U-Net")
    for network, eps in (("autoencoder", 1e-6), ("denoiser", 1e-5)):
        parser.add_argument(f"--{network}-norm-groups", type=_positive, default=32, help="groups of every GroupNorm")
        parser.add_argument(f"--{network}-norm-eps", type=float, default=eps, help="epsilon of every GroupNorm")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Raises:
        SystemExit: with code 1 when the conversion fails; the error is logged.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    options = make_parser().parse_args(arguments)
    try:
        convert(options)
        _warn_of_noise(options.noise)
    except (OSError, ValueError) as error:
        logger.error("%s", error)
        raise SystemExit(1) from error


def _joined(**states: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One state dict of several, each under its name."""
    return {f"{name}.{key}": tensor for name, state in states.items() for key, tensor in state.items()}


def _check_divides(option: str, number: int, widths: Sequence[int]) -> None:
    for width in widths:
        if width % number:
            raise ValueError(f"{option}: {number}, wanted a divisor of the width {width}.")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, wanted at least 1")
    return number


def _warn_of_noise(noise: str) -> None:
    """Say which noise the overlay selects, and why it matters."""
    known = "the authors' released code trains with noise that decays bits downwards only, from 1 to 0 and never back"
    if noise == "decay":
        logger.warning("%s; the overlay selects it (%s): use these weights with the overlay.", known, SCHEDULERS[noise])
    else:
        logger.warning("%s; the overlay selects the paper's symmetric noise (%s), as asked.", known, SCHEDULERS[noise])


if __name__ == "__main__":
    main()
