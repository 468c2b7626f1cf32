"""What the overlays for several processes promise the base configurations, without running them."""

from __future__ import annotations

import json

import pytest
from bundle_runner import CONFIGS, base_configs
from monai.bundle import ConfigParser


def load(*names: str) -> dict:
    return ConfigParser.load_config_files([str(path) for name in names for path in base_configs(name)])


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_all_that_is_trained_is_kept_in_step(stage: str):
    """Each network with an optimizer of its own is given to the trainer in PyTorch's wrapper, and saved without it."""
    base, config = load(stage), load(stage, "multi_gpu_train")
    saved = next(h for h in config["train"]["handlers"] if h["_target_"].endswith("TrainingCheckpoint"))["objects"]
    trained = {v for v in saved.values() if v in ("@network", "@discriminator")}
    trainer = config["train"]["trainer"]
    given = [trainer[key].removeprefix("@") for key in ("network", "g_network", "d_network") if key in trainer]
    assert all(config[name]["_target_"] == "scripts.distributed.data_parallel" for name in given)
    assert {config[name]["network"] for name in given} == trained == {base[name] for name in given}


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_training_differs_from_the_base_only_where_it_must(stage: str):
    base, config = load(stage), load(stage, "multi_gpu_train")
    for side in ("train", "validate"):
        kept = {k: v for k, v in config[side]["dataloader"].items() if k not in ("_target_", "group")}
        assert kept == {k: v for k, v in base[side]["dataloader"].items() if k != "_target_"}
    changed = {key for key in base if config[key] != base[key]}
    changed.discard("parallel_discriminator")
    assert changed == {"device", "progress", "failures", "split", "train", "validate", "initialize", "parallel"}
    # Weights are drawn when networks are built; one process builds them in the trainer's order.
    added = config["initialize"][len(base["initialize"]) :]
    assert config["initialize"][: len(base["initialize"])] == base["initialize"]
    assert added == ["$@train#trainer"]


@pytest.mark.parametrize(
    ("base", "overlay", "changed"),
    [
        (["inference"], "multi_gpu_inference", {"inference"}),
        (["inference", "evaluation"], "multi_gpu_evaluation", {"evaluation", "judging"}),
    ],
)
def test_inference_differs_from_the_base_only_where_it_must(base: list[str], overlay: str, changed: set[str]):
    before, after = load(*base), load(*base, overlay)
    assert {k for k in before if before[k] != after[k]} == {"device", "progress", "failures", "results", *changed}
    for key in ("output_dir", "settings"):
        assert before["results"][key] == after["results"][key]


def test_the_two_overlays_of_inference_agree():
    first, second = (
        json.loads((CONFIGS / f"multi_gpu_{name}.json").read_text()) for name in ("inference", "evaluation")
    )
    shared = first.keys() & second.keys()
    assert {key: first[key] for key in shared} == {key: second[key] for key in shared}
    assert first.keys() - shared == {"inference"} and second.keys() - shared == {"evaluation", "judging"}
