"""Masked Bernoulli diffusion: its settings, and what it says of them."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from helpers import IMAGE_CHANNELS, IMAGE_SIZE, random_slices, tiny_network
from masked_bernoulli_recording import L, T, inferer, run_slices, scheduler

from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.schedulers import BernoulliScheduler, DecayBernoulliScheduler


def method(**changes) -> MaskedBernoulli:
    return MaskedBernoulli(**({"scheduler": scheduler(), "noise_level": L} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability_threshold": -0.1}, "probability_threshold must be a number in [0, 1], got -0.1"),
        ({"probability_threshold": 1.5}, "probability_threshold must be a number in [0, 1], got 1.5"),
        ({"probability_threshold": math.nan}, "probability_threshold must be a number in [0, 1], got nan"),
        ({"probability_threshold": "half"}, "probability_threshold must be a number in [0, 1], got 'half'"),
        ({"noise_level": 0}, "noise_level must be a whole number in [1, 20], got 0"),
        ({"noise_level": 21}, "noise_level must be a whole number in [1, 20], got 21"),
        ({"noise_level": 7.5}, "noise_level must be a whole number in [1, 20], got 7.5"),
        ({"noise_level": None}, "noise_level must be a whole number in [1, 20], got None"),
        ({"num_inference_steps": 9}, "num_inference_steps must be a whole number in [1, 8], got 9"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number in [1, 8], got 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(f"MaskedBernoulli: {message}.")):
        method(**changes)


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(ValueError) as caught:
        method(noise_level=50, probability_threshold=2, num_inference_steps=30)
    assert str(caught.value) == (
        "MaskedBernoulli: noise_level must be a whole number in [1, 20], got 50; "
        "probability_threshold must be a number in [0, 1], got 2; "
        "num_inference_steps must be a whole number in [1, 20], got 30."
    )


def test_whole_numbers_may_be_floats():
    slices, network = random_slices(3), tiny_network()
    whole = run_slices(inferer(num_inference_steps=4), slices, torch.arange(3), network)
    floats = inferer(noise_level=8.0, num_inference_steps=4.0)
    assert torch.equal(run_slices(floats, slices, torch.arange(3), network).mask, whole.mask)
    said = [json.dumps(method(noise_level=a, num_inference_steps=b).describe()) for a, b in ((8.0, 4.0), (8, 4))]
    assert said[0] == said[1]


def test_defaults_are_the_papers():
    own = MaskedBernoulli(scheduler=BernoulliScheduler())
    assert (own.noise_level, own.probability_threshold, own.passes) == (200, 0.5, 200)
    assert own.compile_mode is None


def test_settings_cannot_be_changed_unchecked():
    with pytest.raises(AttributeError):
        method().noise_level = 3


class TestDescribe:
    def test_all_that_results_depend_on(self):
        own = method(compile_mode="default")
        said = own.describe()
        abar = torch.cumprod(1 - torch.linspace(0.02, 0.3, T, dtype=torch.float64), dim=0)
        kept = said["scheduler"].pop("alphas_cumprod")
        assert kept == pytest.approx([abar[0].item(), abar[T // 2 - 1].item(), abar[-1].item()], rel=1e-4)
        assert said == {
            "name": "MaskedBernoulli",
            "scheduler": {"name": "BernoulliScheduler", "num_train_timesteps": T},
            "noise_level": L,
            "probability_threshold": 0.5,
            "num_inference_steps": L,
        }
        assert json.loads(json.dumps(own.describe())) == own.describe()

    def test_all_steps_are_told_as_their_number(self):
        assert method(num_inference_steps=None).describe() == method(num_inference_steps=L).describe()

    @pytest.mark.parametrize(
        "changes",
        [
            {"noise_level": 9},
            {"probability_threshold": 0.4},
            {"num_inference_steps": 3},
            {"scheduler": scheduler(DecayBernoulliScheduler)},
            {"scheduler": BernoulliScheduler(T, beta_start=0.02, beta_end=0.31)},
            {"scheduler": BernoulliScheduler(T, schedule="scaled_linear_beta", beta_start=0.02, beta_end=0.3)},
        ],
    )
    def test_every_setting_shows(self, changes):
        assert method(**changes).describe() != method().describe()


class TestReplace:
    def test_other_settings(self):
        own = method(compile_mode="default")
        other = own.replace(probability_threshold=0.2, noise_level=12)
        assert (other.noise_level, other.probability_threshold, other.passes) == (12, 0.2, 12)
        assert other.scheduler is own.scheduler and other.compile_mode == "default"
        assert (own.noise_level, own.probability_threshold) == (L, 0.5)

    def test_steps_beyond_the_level_are_cut(self):
        own = method(noise_level=8, num_inference_steps=6)
        assert own.replace(noise_level=4).num_inference_steps == 4
        assert own.replace(noise_level=7).num_inference_steps == 6
        assert own.replace(num_inference_steps=20).num_inference_steps == 8
        assert own.replace(noise_level=12, num_inference_steps=20).num_inference_steps == 12
        assert method(noise_level=8).replace(noise_level=4).num_inference_steps is None

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"noise_level": 0}, "noise_level must be a whole number in [1, 20], got 0"),
            ({"num_inference_steps": 0}, "num_inference_steps must be a whole number in [1, 8], got 0"),
            ({"noise_levels": 3, "noise_level": 3}, "has no setting noise_levels; it has scheduler, noise_level, "),
        ],
    )
    def test_what_there_is_not(self, values, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            method().replace(**values)

    def test_the_trial_takes_one_step_of_as_much_memory(self):
        trial = method(num_inference_steps=5).trial()
        assert (trial.passes, trial.noise_level) == (1, L)


def test_a_denoiser_that_gives_nan_is_an_error_not_a_healthy_slice():
    network = tiny_network()
    with torch.no_grad():
        network.denoiser.conv_in.conv.weight[0] = torch.nan
    with pytest.raises(ValueError, match="not a number"):
        inferer()(torch.rand(2, IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE), network)
