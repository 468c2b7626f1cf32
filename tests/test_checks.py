from __future__ import annotations

import json
import math

import pytest
from volume_files import CONFIGS

from scripts.checks import check_settings

INTEGERS = {
    "noise_level": (1, 50),
    "max_noise_level": (1, 50),
    "num_inference_steps": (1, 50),
    "sw_batch_size": (1, None),
    "batch_size": (1, None),
    "epoch_length": (1, None),
    "max_epochs": (1, None),
    "seed": (0, None),
}
NUMBERS = {
    "probability_threshold": (0, 1),
    "anomaly_threshold": (0, None),
    "val_fraction": (0, 1),
    "min_foreground": (0, 1),
}


def check(**settings) -> None:
    check_settings(settings, num_train_timesteps=50)


def problem(**settings) -> str:
    with pytest.raises(ValueError, match="settings out of range") as caught:
        check(**settings)
    return str(caught.value)


@pytest.mark.parametrize(("key", "limits"), [*INTEGERS.items(), *NUMBERS.items()])
def test_both_ends_are_allowed_and_nothing_beyond(key, limits):
    low, high = limits
    check(**{key: low})
    check(**{key: 10**9 if high is None else high})
    beyond = [low - 1, low - 1e-6] if high is None else [low - 1, low - 1e-6, high + 1, high + 1e-6]
    for value in beyond:
        message = problem(**{key: value})
        assert f"{key} must be a" in message
        assert f"got {value!r}" in message
        assert f"[{low}, " in message


@pytest.mark.parametrize("key", [*INTEGERS, *NUMBERS])
@pytest.mark.parametrize("value", ["3", True, [1], math.nan])
def test_what_is_no_number(key, value):
    assert f"{key} must be" in problem(**{key: value})


@pytest.mark.parametrize("key", INTEGERS)
def test_fractions_do_not_count(key):
    assert f"{key} must be a whole number" in problem(**{key: 2.5})


@pytest.mark.parametrize("key", NUMBERS)
def test_fractions_are_numbers(key):
    check(**{key: 0.25})


@pytest.mark.parametrize("key", [*INTEGERS, *NUMBERS, "sequences"])
def test_none_is_not_set(key):
    check(**{key: None})


def test_steps_end_at_the_noise_level():
    check(noise_level=20, num_inference_steps=20)
    assert "num_inference_steps must be a whole number in [1, 20" in problem(noise_level=20, num_inference_steps=21)
    assert "num_inference_steps" in problem(num_inference_steps=51)


def test_steps_of_a_wrong_noise_level_are_still_checked():
    message = problem(noise_level="many", num_inference_steps=0)
    assert "noise_level must be" in message
    assert "num_inference_steps must be" in message


def test_every_problem_is_named():
    message = problem(noise_level=0, batch_size=-3, probability_threshold=2, seed=1)
    for part in ("noise_level", "got 0", "batch_size", "got -3", "probability_threshold", "got 2"):
        assert part in message
    assert "seed" not in message


def test_unknown_keys_are_left_alone():
    check(something="else", device=None)


class TestSequences:
    KNOWN = ("t1", "flair")

    def check(self, sequences) -> None:
        check_settings({"sequences": sequences}, known_sequences=self.KNOWN)

    @pytest.mark.parametrize("sequences", [["t1"], ["flair", "t1"], ("t1", "flair")])
    def test_known(self, sequences):
        self.check(sequences)

    @pytest.mark.parametrize(
        ("sequences", "message"),
        [
            (["t1", "t3"], "unknown 't3', known are t1, flair"),
            (["T1"], "unknown 'T1'"),
            ([], "at least one name"),
            ("t1", "must be a list"),
            (["t1", "flair", "t1"], "a name twice"),
        ],
    )
    def test_wrong(self, sequences, message):
        with pytest.raises(ValueError, match=message):
            self.check(sequences)


@pytest.mark.parametrize("name", ["inference", "autoencoder", "denoiser"])
def test_every_configuration_hands_over_all_its_checked_keys(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    checked = config["checks"]["settings"]
    wanted = {*INTEGERS, *NUMBERS, "sequences"} & config.keys()
    # What clients of a server may set goes through keys of its own, which refer to the same setting.
    served = config.get("displayable_configs", {})
    assert served.items() <= {key: f"@{key}" for key in config}.items()
    ways = {key: {f"@{key}", *([f"@displayable_configs#{key}"] if key in served else [])} for key in wanted}
    ways["anomaly_threshold"] = {"@wanted_threshold"}
    assert {key for key in wanted if checked.get(key) not in ways[key]} == set()
