"""Ranges of settings, each checked by its owner."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from scripts.checks import MANY, check_counts, check_sequences, moved, outside, refuse
from scripts.data.selection import SliceSelector
from scripts.inferers import AnomalyInferer
from scripts.methods.masked_bernoulli import FlipTask, MaskedBernoulli
from scripts.schedulers import BernoulliScheduler
from scripts.scores import squared_residual
from scripts.serving import optional_number

SCHEDULER = BernoulliScheduler(50)


def method(**settings) -> MaskedBernoulli:
    return MaskedBernoulli(scheduler=SCHEDULER, **{"noise_level": 50, **settings})


def inferer(**settings) -> AnomalyInferer:
    return AnomalyInferer(method(), squared_residual, **settings)


def task(**settings) -> FlipTask:
    return FlipTask(None, SCHEDULER, **settings)


# Owner, smallest and largest value, whether it counts.
OWNED: dict[str, tuple[Callable, float, float | None, bool]] = {
    "noise_level": (method, 1, 50, True),
    "num_inference_steps": (method, 1, 50, True),
    "probability_threshold": (method, 0, 1, False),
    "max_noise_level": (task, 1, 50, True),
    "sw_batch_size": (inferer, 1, None, True),
    "seed": (inferer, 0, None, True),
    "min_foreground": (SliceSelector, 0, 1, False),
    "batch_size": (check_counts, 1, None, True),
    "anomaly_threshold": (lambda anomaly_threshold: optional_number(anomaly_threshold), 0, None, False),
    "val_fraction": (lambda val_fraction: check_counts({"val_fraction": val_fraction}), 0, 1, False),
}
OPTIONAL = ("num_inference_steps", "max_noise_level", "sw_batch_size", "batch_size", "anomaly_threshold")


def problem(key: str, value: object) -> str:
    with pytest.raises(ValueError) as caught:
        OWNED[key][0](**{key: value})
    return str(caught.value)


@pytest.mark.parametrize("key", OWNED)
def test_both_ends_are_allowed_and_nothing_beyond(key):
    owner, low, high, _ = OWNED[key]
    for value in (low, 10**9 if high is None else high):
        owner(**{key: value})
    for value in (low - 1, low - 1e-6, *(() if high is None else (high + 1, high + 1e-6))):
        message = problem(key, value)
        assert f"{key} must be a" in message and f"got {value!r}" in message and f"[{low}, " in message


@pytest.mark.parametrize("key", OWNED)
@pytest.mark.parametrize("value", [True, [1], math.nan])
def test_what_is_no_number(key, value):
    assert f"{key} must be" in problem(key, value)


@pytest.mark.parametrize("key", [key for key, (*_, whole) in OWNED.items() if whole])
def test_whole_numbers_may_come_as_floats_fractions_not(key):
    OWNED[key][0](**{key: 2.0})
    assert f"{key} must be a whole number" in problem(key, 2.5)


@pytest.mark.parametrize("key", OPTIONAL)
def test_none_is_not_set(key):
    OWNED[key][0](**{key: None})


def test_steps_end_at_the_noise_level():
    method(noise_level=20, num_inference_steps=20)
    with pytest.raises(ValueError, match=r"num_inference_steps must be a whole number in \[1, 20\], got 21"):
        method(noise_level=20, num_inference_steps=21)


def test_every_problem_of_an_owner_is_named():
    with pytest.raises(ValueError) as caught:
        method(noise_level="many", num_inference_steps=0, probability_threshold=2)
    for part in ("noise_level must be", "'many'", "num_inference_steps must be", "got 0", "probability_threshold", "2"):
        assert part in str(caught.value)


def test_refusing():
    refuse("settings", [None, None])
    with pytest.raises(ValueError, match=r"^settings: one; two\.$"):
        refuse("settings", ["one", None, "two"])
    assert outside("key", 3, 1, MANY, whole=True) is None
    assert outside("key", 0, 1, MANY) == "key must be a number in [1, inf], got 0"


def test_a_moved_configuration_says_where_it_is():
    with pytest.raises(ValueError, match="old is no longer there: give new"):
        moved("old", "give new.")


@pytest.mark.parametrize("sequences", [["t1"], ["flair", "t1"], ("t1", "flair")])
def test_known_sequences(sequences):
    check_sequences(sequences, ("t1", "flair"))


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
def test_wrong_sequences(sequences, message):
    with pytest.raises(ValueError, match=message):
        check_sequences(sequences, ("t1", "flair"))
