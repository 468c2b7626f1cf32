"""The converted networks against a plain evaluation of the authors' state dicts, key by key."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from authors_networks import (
    AUTOENCODER,
    DENOISER,
    Evaluation,
    autoencoder_state,
    command,
    convert,
    denoiser_state,
    small_states,
    write,
)
from monai.bundle import ConfigParser

from scripts.convert_checkpoint import main
from scripts.networks import Parts
from scripts.schedulers import BernoulliScheduler, DecayBernoulliScheduler

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT.parent / "shared" / "reference"
IMAGE_SIZE = 32
CASES = {
    "as published": (AUTOENCODER, DENOISER, {}, {}),
    "other sizes, heads and norms": (
        {"images": 4, "channels": (32, 64), "res_blocks": 2, "embedding": 32, "bits": 40},
        {"channels": (32, 64, 64), "res_blocks": 1, "attention": (False, True, True), "bits": 40},
        {"groups": 16, "eps": 1e-2},
        {"groups": 8, "eps": 3e-2, "heads": 2},
    ),
    "one level": (
        {"images": 1, "channels": (32,), "res_blocks": 1, "embedding": 32, "bits": 8},
        {"channels": (32,), "res_blocks": 1, "attention": (True,), "bits": 8},
        {},
        {"heads": 4},
    ),
}


def load(folder):
    """The joined network as the overlay describes it, with the weights it names."""
    parser = ConfigParser()
    parser.read_config(folder / "model.json")
    network = Parts(
        autoencoder=parser.get_parsed_content("autoencoder"), denoiser=parser.get_parsed_content("denoiser")
    )
    network.load_state_dict(torch.load(parser.get_parsed_content("weights"), weights_only=True))
    return network.eval(), parser


def norm_options(network, groups=None, eps=None, heads=None):
    given = {f"--{network}-norm-groups": groups, f"--{network}-norm-eps": eps, "--heads": heads}
    return [text for name, value in given.items() if value is not None for text in (name, str(value))]


def assert_same(actual, expected):
    """Equal within 1e-4, and worth comparing: of order 1 and different from place to place and image to image."""
    assert actual.shape == expected.shape
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 0.05
    assert (actual - expected).abs().max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_converted_networks_compute_what_the_authors_do(tmp_path, case):
    autoencoder_sizes, denoiser_sizes, autoencoder_norm, denoiser_norm = CASES[case]
    states = autoencoder_state(0, **autoencoder_sizes), denoiser_state(1, **denoiser_sizes)
    options = norm_options("autoencoder", **autoencoder_norm) + norm_options("denoiser", **denoiser_norm)
    convert(tmp_path, *states, *options)
    network, _ = load(tmp_path)
    autoencoder = Evaluation(states[0], **({"eps": 1e-6} | autoencoder_norm))
    denoiser = Evaluation(states[1], **({"eps": 1e-5} | denoiser_norm))
    shape = (2, autoencoder_sizes["images"], IMAGE_SIZE, IMAGE_SIZE)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        probability = autoencoder.encode(image)
        code = (probability > 0.5).float()
        timesteps = torch.tensor([3, 870])
        assert_same(network.autoencoder.encode(image), probability)
        assert_same(network.autoencoder.decode(code), autoencoder.decode(code))
        assert_same(network.denoiser(code, timesteps=timesteps), denoiser.denoise(code, timesteps))


def test_float32_storage_keeps_every_digit(tmp_path):
    states = small_states()
    states[0]["ae.quantize.proj.0.bias"] += 1e-5
    convert(tmp_path, *states, "--no-half")
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert torch.equal(stored["autoencoder.projection.bias"], states[0]["ae.quantize.proj.0.bias"])


@pytest.mark.parametrize(("options", "dtype"), [((), torch.float16), (("--no-half",), torch.float32)])
def test_only_the_used_parameters_are_stored(tmp_path, options, dtype):
    convert(tmp_path, *small_states(), *options)
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    numbers = sum(tensor.numel() for tensor in stored.values())
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in stored.values()}
    assert len(storages) == len(stored)
    assert sum(storages.values()) == dtype.itemsize * numbers
    network, _ = load(tmp_path)
    assert numbers == sum(parameter.numel() for parameter in network.parameters())


def test_overlay_holds_sizes_noise_and_weights(tmp_path):
    convert(tmp_path, *small_states())
    overlay = json.loads((tmp_path / "model.json").read_text())
    assert overlay == {
        "weights": str((tmp_path / "model.pt").resolve()),
        "autoencoder": {
            "_target_": "scripts.networks.BinarizingAutoencoder",
            "in_channels": 3,
            "channels": [32, 64, 64],
            "num_res_blocks": 1,
            "embedding_channels": 96,
            "code_channels": 24,
            "norm_num_groups": 32,
            "norm_eps": 1e-6,
        },
        "denoiser": {
            "_target_": "DiffusionModelUNet",
            "spatial_dims": 2,
            "in_channels": 24,
            "out_channels": 24,
            "channels": [32, 64, 96],
            "num_res_blocks": 2,
            "attention_levels": [False, True, False],
            "num_head_channels": [32, 64, 96],
            "norm_num_groups": 32,
            "norm_eps": 1e-5,
            "include_fc": True,
        },
        "scheduler": {
            "_target_": "scripts.schedulers.DecayBernoulliScheduler",
            "num_train_timesteps": 1000,
            "schedule": "linear_beta",
            "beta_start": 0.0001,
            "beta_end": 0.02,
        },
        "anomaly_map": {"_target_": "scripts.scores.squared_residual", "_mode_": "callable"},
    }


def test_four_channels_are_the_authors_sequences(tmp_path):
    convert(tmp_path, autoencoder_state(0, **(AUTOENCODER | {"images": 4})), denoiser_state(1, **DENOISER))
    assert json.loads((tmp_path / "model.json").read_text())["sequences"] == ["t1", "t1ce", "t2", "flair"]


@pytest.mark.parametrize(
    ("options", "scheduler", "kept"),
    [((), DecayBernoulliScheduler, True), (("--noise", "symmetric"), BernoulliScheduler, False)],
)
def test_overlay_selects_the_noise_that_was_trained_with(tmp_path, options, scheduler, kept):
    convert(tmp_path, *small_states(), *options)
    _, parser = load(tmp_path)
    noise = parser.get_parsed_content("scheduler")
    assert type(noise) is scheduler
    zeros = torch.zeros(1, 1, 100, 100)
    noisy = noise.add_noise(zeros, torch.rand(zeros.shape), torch.tensor([999]))
    assert torch.equal(noisy, zeros) is kept


@pytest.mark.parametrize("autoencoder", ["logsigma", "shortcuts", "training"])
def test_tensors_that_inference_does_not_need_may_come_or_go(tmp_path, autoencoder):
    states = small_states()
    convert(tmp_path, *states)
    before = torch.load(tmp_path / "model.pt", weights_only=True)
    if autoencoder == "training":
        states[0]["disc.main.0.weight"] = torch.randn(8, 3, 4, 4)
        states[0]["disc.main.3.num_batches_tracked"] = torch.tensor(7)
        states[0]["perceptual.net.slice1.0.weight"] = torch.randn(8, 3, 3, 3)
    else:
        drop = "logsigma" if autoencoder == "logsigma" else "blocks.1.conv_out"  # 32 to 32 channels in the encoder
        dropped = [key for key in states[0] if drop in key and "generator.blocks" not in key]
        assert len(dropped) in (2, 4)
        for key in dropped:
            del states[0][key]
    convert(tmp_path, *states)
    after = torch.load(tmp_path / "model.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_log_tells_parameters_and_noise(tmp_path, caplog):
    states = small_states()
    with caplog.at_level(logging.INFO):
        convert(tmp_path, *states)
    network, _ = load(tmp_path)
    for part in (network.autoencoder, network.denoiser):
        assert f"{sum(parameter.numel() for parameter in part.parameters()):,} parameters" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("decays bits downwards only" in text and "DecayBernoulliScheduler" in text for text in warnings)


def test_command_line_runs_from_the_bundle_folder(tmp_path):
    write(tmp_path, *small_states())
    arguments = command(tmp_path, output="new/folder/weights.pt")
    run = [sys.executable, "-m", "scripts.convert_checkpoint", *arguments]
    result = subprocess.run(run, cwd=ROOT / "bundle", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "decays bits downwards only" in result.stderr
    overlay = json.loads((tmp_path / "new" / "folder" / "weights.json").read_text())
    assert Path(overlay["weights"]) == (tmp_path / "new" / "folder" / "weights.pt").resolve()


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the golden numbers are not beside this repository")
def test_golden_numbers_of_the_authors_layers(tmp_path):
    paths = {"autoencoder": REFERENCE / "binaryae_ema.th", "denoiser": REFERENCE / "unet.pt"}
    main(
        [text for name, path in paths.items() for text in (f"--{name}", str(path))]
        + ["--output", f"{tmp_path}/model.pt"]
    )
    network, _ = load(tmp_path)
    golden = {name: torch.from_numpy(array) for name, array in np.load(REFERENCE / "io.npz").items()}
    code = golden["code"].float()
    with torch.no_grad():
        outputs = {
            "probability": network.autoencoder.encode(golden["image"].float()),
            "decoded": network.autoencoder.decode(code[:1]),
            "flip_probability": network.denoiser(code, timesteps=golden["timesteps"]).sigmoid(),
        }
    for name, output in outputs.items():
        assert output.shape == golden[name].shape
        assert (output - golden[name]).abs().max() < 1e-4, name
