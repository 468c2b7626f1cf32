"""What MONAI's model zoo asks of a bundle: its files, metadata, model card, network and workflows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bundle_runner import BUNDLE, CONFIGS, base_configs, check_run, environment, tiny_overlay, write_subject
from monai.bundle import ConfigParser, create_workflow
from monai.bundle.properties import InferProperties, TrainProperties
from monai.utils import BundleProperty
from warm_process import run_module

from scripts.make_zip import NAME, bundle_files

LARGEST = 25_000_000
"""Bytes that the zoo allows a file."""

METADATA = json.loads((CONFIGS / "metadata.json").read_text())

TEXT_KEYS = [
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "name", "task", "description"),
    *("authors", "copyright", "license", "data_source", "data_type", "image_classes", "label_classes", "pred_classes"),
    "intended_use",
]

TENSOR_KEYS = {
    "type": str,
    "format": str,
    "modality": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}

SECTIONS = [
    "# Model Overview",
    "## Data",
    "### Preprocessing",
    "## Training configuration",
    "## Input",
    "## Output",
    "## Performance",
    "## System Configuration",
    "## MONAI Bundle Commands",
    "## Limitations",
    "# References",
    "# License",
]


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "configs/logging.conf",
        "models/model.pt",
        "models/LICENSE",
        "docs/README.md",
        "docs/data_license.txt",
    ],
)
def test_wanted_files_are_there(name: str):
    assert (BUNDLE / name).stat().st_size > 0


def test_no_file_is_too_large_for_the_zoo():
    sizes = {path: path.stat().st_size for path in bundle_files(BUNDLE)}
    assert {path: size for path, size in sizes.items() if size > LARGEST} == {}
    # The weights are what comes near.
    assert max(sizes, key=lambda path: sizes[path]) == BUNDLE / "models" / "model.pt"


def test_the_name_suits_the_zoo_and_the_server():
    # A zip is called name_vX; a version must not be read out of the name itself.
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", NAME) and "_v" not in NAME
    # MONAI Label takes the kind of task from these words in a model's folder.
    assert not [word for word in ("detection", "deepedit", "deepgrow", "classification") if word in NAME]


def test_metadata_has_every_field():
    assert [key for key in TEXT_KEYS if not isinstance(METADATA.get(key), str) or not METADATA[key].strip()] == []
    for key in ("changelog", "required_packages_version", "supported_apps", "eval_metrics"):
        assert METADATA[key] and isinstance(METADATA[key], dict), key
    assert all(isinstance(value, str) and value for value in METADATA["references"])
    for versions in (METADATA["required_packages_version"], METADATA["supported_apps"]):
        assert all(re.fullmatch(r"\d+(\.\d+)+", version) for version in versions.values())


def test_the_newest_version_is_in_the_changelog_and_the_project():
    assert next(iter(METADATA["changelog"])) == METADATA["version"]
    assert f'version = "{METADATA["version"]}"' in (BUNDLE.parent / "pyproject.toml").read_text()


def test_every_tensor_is_described():
    formats = METADATA["network_data_format"]
    assert list(formats["inputs"]) == ["image"] and list(formats["outputs"]) == ["pred"]
    for group in ("inputs", "outputs", "post_processed_outputs"):
        for name, tensor in formats[group].items():
            wrong = [key for key, kind in TENSOR_KEYS.items() if type(tensor.get(key)) is not kind]
            assert wrong == [], f"{group}#{name}"
            assert [int(index) for index in tensor["channel_def"]] == list(range(len(tensor["channel_def"])))
    # Applications take the labels of the segmentation from here.
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "anomaly"}


def test_the_model_card_has_the_sections_in_order():
    card = (BUNDLE / "docs" / "README.md").read_text()
    outside_code = re.sub(r"```.*?```", "", card, flags=re.S)
    assert [line for line in outside_code.splitlines() if re.match("#{1,3} ", line)] == SECTIONS
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", card):
        assert (BUNDLE / "docs" / image).is_file(), image


def test_metrics_are_those_of_the_model_card():
    row = next(
        line for line in (BUNDLE / "docs" / "README.md").read_text().splitlines() if line.startswith("| **masked**")
    )
    cells = [cell.strip().split(" ")[0] for cell in row.strip("|").split("|")]
    names = ["average_precision_foreground", "dice_slice_calibrated_threshold", "dice_slice_best_threshold"]
    assert METADATA["eval_metrics"] == dict(zip(names, map(float, cells[1:4]), strict=True))


@pytest.mark.parametrize("root", ["bundle", "elsewhere"])
def test_the_network_takes_and_gives_what_metadata_says(root: str, tmp_path: Path):
    prefix, cwd = ("", BUNDLE) if root == "bundle" else (f"{BUNDLE}/", tmp_path)
    arguments = ["verify_net_in_out", "network_def"]
    arguments += ["--meta_file", f"{prefix}configs/metadata.json", "--config_file", f"{prefix}configs/inference.json"]
    arguments += [] if root == "bundle" else ["--bundle_root", str(BUNDLE)]
    env = environment() | ({} if root == "bundle" else {"PYTHONPATH": str(BUNDLE)})
    printed = check_run(run_module("monai.bundle", arguments, cwd, env))
    assert "data shape of network is verified with no error" in printed


def test_why_there_is_no_torchscript():
    config = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.json")))
    network = config.get_parsed_content("denoiser")
    with pytest.raises(RuntimeError, match="cannot statically infer the expected size of a list") as error:
        torch.jit.script(network)
    assert "spatialattention.py" in str(error.value)


@pytest.mark.parametrize(
    "overlay",
    [None, "evaluation", "calibration", "search", "scores", "methods/unmasked"],
)
def test_no_property_of_inference_is_missing(overlay: str | None, tmp_path: Path):
    configs = [str(CONFIGS / f"{name}.json") for name in ("inference", overlay) if name]
    flow = create_workflow(
        config_file=configs,
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(BUNDLE),
        output_dir=str(tmp_path / "out"),
        anomaly_threshold=0.1,
        progress=False,
    )
    assert flow.check_properties() == []
    assert_all_built(flow, InferProperties)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_no_property_of_training_is_missing(stage: str, tmp_path: Path):
    for number in range(2):
        write_subject(tmp_path / "data", f"S{number}", number)
    files = [*map(str, base_configs(stage)), str(tiny_overlay(tmp_path, stage))]
    extra = {}
    if stage == "denoiser":
        autoencoder = ConfigParser(ConfigParser.load_config_files(files)).get_parsed_content("autoencoder")
        torch.save(autoencoder.state_dict(), tmp_path / "autoencoder.pt")
        extra["autoencoder_weights"] = str(tmp_path / "autoencoder.pt")
    flow = create_workflow(
        config_file=files,
        workflow_type="train",
        logging_file=False,
        meta_file=str(CONFIGS / "metadata.json"),
        bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        **extra,
    )
    assert flow.check_properties() == []
    assert_all_built(flow, TrainProperties)
    # Names that the zoo wants beyond MONAI's own properties.
    for key in ("output_dir", "train#handlers", "validate#handlers", "validate#evaluator", "validate#key_metric"):
        assert key in flow.parser, key
    validation = [h for h in flow.parser["train#handlers"] if h["_target_"] == "ValidationHandler"]
    assert [h["interval"] for h in validation] == ["@val_interval"]


def assert_all_built(flow, properties: dict) -> None:
    """Each required property is there and can be made."""
    for name, description in properties.items():
        if description[BundleProperty.REQUIRED]:
            assert getattr(flow, name) is not None, name
