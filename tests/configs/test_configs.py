"""What the configuration files promise each other, without running them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bundle_runner import BUNDLE, CONFIGS, TRAININGS, base_configs, tiny_overlay, write_subject
from monai.bundle import ConfigParser, ConfigWorkflow

PAPER = ("methods/masked_bernoulli_2024.json", "data/brats2020.json")


def load(*names: str) -> dict:
    return ConfigParser.load_config_files([str(CONFIGS / name) for name in names])


def build(key: str, *names: str):
    parser = ConfigParser(load(*names))
    return parser.get_parsed_content(key)


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.json")), ids=lambda p: str(p.relative_to(CONFIGS)))
def test_is_json_with_unique_keys(path: Path):
    def unique(pairs: list[tuple]) -> dict:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{path.name}: a key twice in {keys}"
        return dict(pairs)

    json.loads(path.read_text(), object_pairs_hook=unique)


def test_the_papers_sizes():
    assert count(build("denoiser", "inference.json", *PAPER)) == 36_034_432
    assert count(build("autoencoder", "inference.json", *PAPER)) == 4_103_716
    assert count(build("network_def", "inference.json", *PAPER)) == 36_034_432 + 4_103_716


def test_the_default_is_small():
    assert count(build("denoiser", "inference.json")) == 5_628_096
    # Half precision: two bytes a parameter.
    assert 2 * count(build("network_def", "inference.json")) < 20e6


@pytest.mark.parametrize("overlay", ["data/brats2020.json", "data/oct2017.json"])
def test_the_papers_settings(overlay: str):
    first, second, inference = (
        load(*files, "methods/masked_bernoulli_2024.json", overlay)
        for files in (*TRAININGS.values(), ["inference.json"])
    )
    assert (first["batch_size"], first["epoch_length"] * first["max_epochs"]) == (6, 12_000)
    assert (second["batch_size"], second["epoch_length"] * second["max_epochs"]) == (32, 200_000)
    assert second["learning_rate"] == 1e-4 and second["lr_scheduler"]["_target_"].endswith("ConstantLR")
    assert (inference["noise_level"], inference["probability_threshold"]) == (200, 0.5)
    assert inference["num_inference_steps"] == 200 and inference["num_train_timesteps"] == 1000
    assert (inference["median_size"], inference["anomaly_threshold"], inference["min_component_size"]) == (5, 0.5, 10)
    assert inference["scheduler"]["_target_"] == "scripts.schedulers.BernoulliScheduler"
    assert (inference["scheduler"]["beta_start"], inference["scheduler"]["beta_end"]) == (1e-4, 0.02)
    if overlay == "data/brats2020.json":
        assert inference["slice_range"] == [80, 129] and len(inference["sequences"]) == 4


@pytest.mark.parametrize(
    "overlays", [(), ("data/brats2020.json",), ("data/oct2017.json",), ("methods/denoising_autoencoder.json",)]
)
def test_all_stages_see_the_same_images_and_networks(overlays: tuple[str, ...]):
    stages = [load(*files, *overlays) for files in (*TRAININGS.values(), ["inference.json"])]
    shared = ["preprocessing", "load", "slice_selector", "datalist", "sequences", "sequence_suffixes", "image_size"]
    for key in [*shared, "slice_range", "min_foreground", "num_train_timesteps", "seed", "bundle_root"]:
        assert stages[0][key] == stages[1][key] == stages[2][key], key
    for key in ("network_def", "autoencoder", "denoiser", "scheduler", "method", "inferer", "noise_level"):
        assert stages[0][key] == stages[1][key] == stages[2][key], key


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_training_has_the_required_properties(stage: str, tmp_path: Path):
    for number in range(2):
        write_subject(tmp_path / "data", f"S{number}", number)
    files = [*map(str, base_configs(stage)), str(tiny_overlay(tmp_path, stage))]
    settings = {"bundle_root": str(BUNDLE), "dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    if stage == "denoiser":
        autoencoder = ConfigParser(ConfigParser.load_config_files(files))
        torch.save(autoencoder.get_parsed_content("autoencoder").state_dict(), tmp_path / "autoencoder.pt")
        settings["autoencoder_weights"] = str(tmp_path / "autoencoder.pt")
    flow = ConfigWorkflow(files, workflow_type="train", run_id="training", logging_file=False, **settings)
    flow.initialize()
    assert flow.check_properties() == []


@pytest.mark.parametrize("given", [False, True])
def test_the_denoiser_starts_from_initial_weights(given: bool, tmp_path: Path):
    files = [*map(str, base_configs("denoiser")), str(tiny_overlay(tmp_path, "denoiser"))]
    trained = ConfigParser(ConfigParser.load_config_files(files)).get_parsed_content("denoiser").state_dict()
    # MONAI starts its last layer at zero: were nothing loaded, that would still tell.
    trained = {key: torch.full_like(value, 0.25) for key, value in trained.items()}
    torch.save(trained, tmp_path / "best.pt")
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser["initial_weights"] = str(tmp_path / "best.pt") if given else None
    # The average of the weights, which validation and best.pt see, starts there too.
    for network in (parser.get_parsed_content("network"), parser.get_parsed_content("ema").ema_model):
        state = network.state_dict()
        assert all(torch.equal(state[key], value) for key, value in trained.items()) == given


@pytest.mark.parametrize(
    ("stage", "part", "key", "component"),
    [
        ("autoencoder", "autoencoder", "initial_weights", "network"),
        ("denoiser", "denoiser", "initial_weights", "network"),
        ("denoiser", "autoencoder", "autoencoder_weights", "frozen_autoencoder"),
    ],
    ids=["stage 1", "stage 2", "autoencoder of stage 2"],
)
def test_training_takes_its_part_of_the_joined_model(stage, part, key, component, tmp_path: Path):
    files = [*map(str, base_configs(stage)), str(tiny_overlay(tmp_path, stage))]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    fresh = parser.get_parsed_content(part).state_dict()
    state = {name: torch.full_like(value, 0.25) for name, value in fresh.items()}
    joined = {f"{part}.{name}": value for name, value in state.items()} | {"other.weight": torch.ones(3)}
    torch.save(joined, tmp_path / "model.pt")
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser[key] = str(tmp_path / "model.pt")
    found = parser.get_parsed_content(component).state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_other_initial_weights_are_another_training(stage: str, tmp_path: Path):
    found = []
    for content in (None, b"a", b"b"):
        parser = ConfigParser(load(*TRAININGS[stage]) | json.loads(tiny_overlay(tmp_path, stage).read_text()))
        if content:
            (tmp_path / "model.pt").write_bytes(content)
            parser["initial_weights"] = str(tmp_path / "model.pt")
        parser["resume_settings"] = {
            "_target_": parser["resume_settings"]["_target_"],
            "files": {"initial_weights": "@initial_weights"},
        }
        assert "initial_weights=@initial_weights" in load(*TRAININGS[stage])["resume_settings"]["files"]
        found.append(parser.get_parsed_content("resume_settings")["initial_weights"])
    assert found[0] is None
    assert len(set(found)) == 3


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
@pytest.mark.parametrize(
    ("amp", "reason"),
    [(True, "settings: compile_mode: 'default' on a CPU wants amp False"), (False, "dataset_dir")],
    ids=["bfloat16", "float32"],
)
def test_compiled_training_in_bfloat16_on_a_cpu_is_refused_before_reading(stage, amp, reason, tmp_path: Path):
    settings = {"dataset_dir": str(tmp_path / "none"), "output_dir": str(tmp_path / "out"), "device": "cpu", "amp": amp}
    flow = ConfigWorkflow(
        [*map(str, base_configs(stage))], workflow_type="train", run_id="training", logging_file=False,
        bundle_root=str(BUNDLE), compile_mode="default", **settings,
    )  # fmt: skip
    with pytest.raises(Exception) as caught:
        flow.initialize()
        flow.run()
    errors = [caught.value]
    while errors[-1].__cause__ is not None:
        errors.append(errors[-1].__cause__)
    assert any(str(error).startswith(reason) for error in errors), errors


@pytest.mark.parametrize(("level", "times"), [(None, 1000), (200, 200)])
def test_training_and_validation_draw_the_same_times(level: int | None, times: int, tmp_path: Path):
    parser = ConfigParser(load(*TRAININGS["denoiser"]) | json.loads(tiny_overlay(tmp_path, "denoiser").read_text()))
    torch.save(parser.get_parsed_content("autoencoder").state_dict(), tmp_path / "autoencoder.pt")
    parser["autoencoder_weights"], parser["max_noise_level"] = str(tmp_path / "autoencoder.pt"), level
    for key, stratified in (("train#trainer", False), ("validate#evaluator", True)):
        batch = parser.get_parsed_content(f"{key}#prepare_batch")
        assert (batch.task.max_noise_level, batch.draws.stratified) == (times, stratified)
    parser["split"] = {"training": []}
    assert parser.get_parsed_content("resume_settings")["task"]["max_noise_level"] == times


def test_metadata_describes_the_network():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    image = metadata["network_data_format"]["inputs"]["image"]
    inference = load("inference.json")
    assert image["num_channels"] == len(image["channel_def"]) == len(inference["sequences"])
    assert image["spatial_shape"] == [inference["image_size"]] * 2
    assert metadata["version"] in metadata["changelog"]
    pins = dict(
        line.split("==")
        for line in (BUNDLE.parent / "requirements.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    versions = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"]}
    versions |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    assert versions == pins
