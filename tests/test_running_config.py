"""Checks of the configuration that is being run, through MONAI's parser and command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundle_runner import CONFIGS, run_bundle, write_subject
from monai.bundle import ConfigParser

from scripts.running_config import check_configuration, given, running_parser


def refusal(**changes) -> str:
    """What ``checks`` of the inference configuration says against settings."""
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "inference.json")]))
    parser.update({"bundle_root": str(CONFIGS.parent), **changes})
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content("checks")
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, ValueError), repr(error)
    return str(error)


def test_the_shipped_settings_are_accepted():
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "inference.json")]))
    parser["bundle_root"] = str(CONFIGS.parent)
    assert parser.get_parsed_content("checks") is None


def test_all_owners_speak_at_once():
    message = refusal(
        noise_level=0, min_foreground=2, median_size=4, anomaly_threshold="high", sequences=["t1", "pet"], seed=-1
    )
    for part in ("noise_level", "min_foreground", "median_size", "anomaly_threshold", "'pet'"):
        assert message.count(part) == 1, message


def test_one_problem_is_told_once_though_others_fail_with_it():
    # The inferer cannot be built without its method.
    assert refusal(probability_threshold=1.5).count("probability_threshold") == 1


def test_what_is_no_setting_goes_on_as_it_is():
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / "inference.json")]))
    parser.update({"bundle_root": str(CONFIGS.parent), "sequence_weights": {}})
    with pytest.raises(Exception) as caught:
        parser.get_parsed_content("checks")
    assert not isinstance(caught.value, ValueError)


def test_outside_of_a_run_there_is_nothing_to_check():
    assert running_parser() is None and given() == ([], [])
    check_configuration(["method"])


@pytest.mark.parametrize(
    ("configs", "key", "said"),
    [
        (["inference.json"], "noise_levl", "unknown key 'noise_levl', did you mean noise_level?"),
        (["inference.json"], "quux", "unknown key 'quux', no known key is like it"),
        (["inference.json"], "step_counts", "unknown key 'step_counts', it belongs to search.json, which is not given"),
        (
            ["inference.json", "methods/denoising_autoencoder.json"],
            "noise_level",
            "noise_level has no effect with these configurations",
        ),
        (["inference.json", "train.json"], "max_epoch", "unknown key 'max_epoch', did you mean max_epochs?"),
    ],
)
def test_keys_of_the_command_line(configs: list[str], key: str, said: str, tmp_path: Path):
    write_subject(tmp_path / "data", "S", 1)
    run_id = "training" if "train.json" in configs else "inference"
    overrides = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", key: 5}
    result = run_bundle(run_id, [CONFIGS / name for name in configs], **overrides)
    printed = result.stdout + result.stderr
    assert result.returncode != 0 and said in printed, printed[-3000:]
    assert not (tmp_path / "out").exists(), "nothing is written before the settings are checked"


def test_keys_of_ones_own_overlay_are_known(tmp_path: Path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"my_level": 4, "noise_level": "@my_level", "probability_threshold": 7}))
    files = [CONFIGS / "inference.json", own]
    result = run_bundle("inference", files, my_level=5, output_dir=tmp_path / "out")
    printed = result.stdout + result.stderr
    # The one thing that is wrong is told, and nothing about the key.
    assert "probability_threshold must be a number in [0, 1], got 7" in printed and "unknown key" not in printed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train_diffusion", "['configs/inference.json','configs/train.json']"),
        ("train_autoencoder", "'configs/train_adversarial.json'"),
        ("brats2020", "configs/data/brats2020.json"),
        ("oct2017", "configs/data/oct2017.json"),
        ("dicom", "configs/data/dicom.json"),
        ("prepared_slices", "configs/data/prepared_slices.json"),
        ("unmasked", "configs/methods/unmasked.json"),
        ("autoencoder_residual", "configs/methods/autoencoder_residual.json"),
    ],
)
def test_names_of_earlier_versions_say_the_new_one(old: str, new: str):
    trains = old.startswith("train")
    files = [CONFIGS / f"{old}.json"] if trains else [CONFIGS / "inference.json", CONFIGS / f"{old}.json"]
    result = run_bundle("training" if trains else "inference", files)
    printed = result.stdout + result.stderr
    assert result.returncode != 0 and f"configs/{old}.json is no longer there" in printed and new in printed
