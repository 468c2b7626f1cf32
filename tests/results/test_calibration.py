"""Settings that a threshold belongs to, and the file that holds it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers import tiny_network
from monai.transforms import Compose, GaussianSmoothd, MapTransform

from scripts.describe import describe
from scripts.inferers import AnomalyInferer
from scripts.methods import Method, Restoration
from scripts.methods.masked_bernoulli import MaskedBernoulli
from scripts.results import run_settings
from scripts.results.calibration import INDEPENDENT, calibrated, read_threshold
from scripts.schedulers import BernoulliScheduler
from scripts.scores import signed_residual
from scripts.transforms import RestrictForegroundd, SmoothSlicesd

SCHEDULER = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)


class Sharpend(MapTransform):
    """A user's own step: knows nothing of calibrations."""

    def __init__(self, keys, power: float = 2.0) -> None:
        super().__init__(keys)
        self.power = power

    def __call__(self, data: dict) -> dict:
        return {**data, **{key: data[key] ** self.power for key in self.keys}}


def method(**changes) -> MaskedBernoulli:
    return MaskedBernoulli(**{"scheduler": SCHEDULER, "noise_level": 200, "num_inference_steps": 20, **changes})


def steps(*more: object, first: bool = False) -> Compose:
    """The configured post-processing of maps, with further steps behind it or before it."""
    own = [SmoothSlicesd("pred", 5), RestrictForegroundd("pred", "image", 0)]
    return Compose([*more, *own] if first else [*own, *more])


def settings(folder, **changes) -> dict:
    """What an inference writes about itself, all of it as the configuration hands it over."""
    (folder / "model.pt").write_bytes(b"weights")
    things = {
        "method": method(),
        "score": functools.partial(signed_residual, weights=[-0.5, 1.0], sigma=2.0),
        "sequences": ["t1", "flair"],
        "map_postprocessing": steps(),
        "segmentation_postprocessing": Compose([]),
        "seed": 0,
        "amp": False,
    }
    return run_settings(str(folder / "model.pt"), **{**things, **changes})


class TestRunSettings:
    def test_weights_by_content(self, tmp_path):
        described = settings(tmp_path, seed=3)
        assert described["weights"] == hashlib.sha256(b"weights").hexdigest()[:16]
        assert described["seed"] == 3
        assert settings(tmp_path, size=256)["size"] == 256
        assert str(tmp_path) not in json.dumps(described)

    def test_are_json(self, tmp_path):
        described = settings(tmp_path)
        assert json.loads(json.dumps(described, allow_nan=False)) == described

    def test_steps_default_to_the_noise_level(self, tmp_path):
        every = settings(tmp_path, method=method(num_inference_steps=None))
        assert every == settings(tmp_path, method=method(num_inference_steps=200))
        assert settings(tmp_path)["method"]["num_inference_steps"] == 20

    def test_noise_process(self, tmp_path):
        process = settings(tmp_path)["method"]["scheduler"]
        assert process["num_train_timesteps"] == 1000
        for other in (
            BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.03),
            BernoulliScheduler(999, schedule="linear_beta", beta_start=1e-4, beta_end=0.02),
        ):
            assert settings(tmp_path, method=method(scheduler=other))["method"]["scheduler"] != process
        # What a run has done to its scheduler is no setting.
        used = copy.deepcopy(SCHEDULER)
        used.set_timesteps(7, 50)
        assert settings(tmp_path, method=method(scheduler=used))["method"]["scheduler"] == process

    def test_which_evidence_there_is(self, tmp_path):
        assert settings(tmp_path)["evidence"] == ["mask_density"]
        assert settings(tmp_path, method=Copying())["evidence"] == []

    def test_missing_weights(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"weights: no file '.*none\.pt'"):
            run_settings(str(tmp_path / "none.pt"), method())


@dataclass(frozen=True, eq=False, kw_only=True)
class Copying(Method):
    """Finds nothing at all."""

    strength: float = 0.5

    def restore(self, images, encoded, network, streams, on_step) -> Restoration:
        on_step()
        return Restoration(images)


def calibration(folder, there: dict, **changes) -> str:
    path = folder / "calibration.json"
    content = {"threshold": 0.125, "data": "x", "settings": calibrated(there), **changes}
    path.write_text(json.dumps(content))
    return str(path)


class TestPostprocessing:
    """Whatever step is put in, taken out or moved: a threshold of before is worth nothing, and the step is named."""

    @pytest.mark.parametrize(
        ("there", "here", "named"),
        [
            (steps(), steps(Sharpend("pred")), "'name': 'Sharpend'"),
            (steps(), steps(Sharpend("pred"), first=True), "'name': 'Sharpend'"),
            (steps(Sharpend("pred")), steps(Sharpend("pred", 3)), "'power': 3"),
            (steps(Sharpend("pred")), steps(), "'name': 'Sharpend'"),
            (steps(), steps(GaussianSmoothd("pred", sigma=1.5)), "'name': 'GaussianSmoothd'"),
            (steps(GaussianSmoothd("pred", sigma=1.5)), steps(GaussianSmoothd("pred", sigma=2.5)), "2.5"),
            (steps(), Compose([SmoothSlicesd("pred", 3), RestrictForegroundd("pred", "image", 0)]), "'median_size': 3"),
            (steps(), Compose([SmoothSlicesd("pred", 5), RestrictForegroundd("pred", "image", 2)]), "'erosion': 2"),
        ],
    )
    def test_of_another_map_is_refused(self, tmp_path, there, here, named):
        before, after = (settings(tmp_path, map_postprocessing=s) for s in (there, here))
        path = calibration(tmp_path, before)
        assert read_threshold(path, before) == 0.125
        with pytest.raises(ValueError, match=r"is for other settings \(map_postprocessing is ") as caught:
            read_threshold(path, after)
        assert named in str(caught.value)

    def test_the_same_steps_made_anew_fit(self, tmp_path):
        pair = [steps(Sharpend("pred"), GaussianSmoothd("pred", sigma=1.5)) for _ in range(2)]
        before, after = (settings(tmp_path, map_postprocessing=s) for s in pair)
        assert read_threshold(calibration(tmp_path, before), after) == 0.125

    def test_of_segmentations_counts_too(self, tmp_path):
        after = settings(tmp_path, segmentation_postprocessing=Compose([Sharpend("pred")]))
        with pytest.raises(ValueError, match=r"segmentation_postprocessing is \[\] there, .*Sharpend"):
            read_threshold(calibration(tmp_path, settings(tmp_path)), after)


class TestReadThreshold:
    SETTINGS: ClassVar = {
        "method": {"name": "Some", "noise_level": 200, "steps": 20},
        "evidence": ["mask_density"],
        "score": {"name": "signed_residual", "sigma": 2.0},
        "sequences": ["t1"],
        "preprocessing": [{"name": "Orientationd"}],
        "map_postprocessing": [],
        "weights": "abc",
        "seed": 0,
        "amp": False,
        "slices": {"slice_range": None},
        "anomaly_threshold": 0.5,
    }
    KEYS = tuple(key for key in SETTINGS if key not in ("seed", "amp", "slices", "evidence", "anomaly_threshold"))

    def file(self, tmp_path, **changes) -> str:
        return calibration(tmp_path, self.SETTINGS, **changes)

    def test_matching(self, tmp_path):
        assert read_threshold(self.file(tmp_path), self.SETTINGS) == 0.125

    def test_what_a_threshold_depends_on(self):
        assert set(calibrated(self.SETTINGS)) == set(self.KEYS)
        assert set(self.SETTINGS) - set(self.KEYS) == set(INDEPENDENT)

    def test_tuples_and_uncalibrated_settings_do_not_matter(self, tmp_path):
        here = {**self.SETTINGS, "sequences": ("t1",), "seed": 5, "slices": {"slice_range": [1, 2]}, "amp": True}
        assert read_threshold(self.file(tmp_path), here) == 0.125

    @pytest.mark.parametrize("given", [0, 0.0, 0.75, 3])
    def test_given(self, tmp_path, given):
        for path in (self.file(tmp_path, settings={"sequences": "other"}), str(tmp_path / "none.json")):
            threshold = read_threshold(path, self.SETTINGS, given)
            assert threshold == given
            assert isinstance(threshold, float)

    @pytest.mark.parametrize("key", KEYS)
    def test_other_settings_are_named(self, tmp_path, key):
        path = self.file(tmp_path)
        here = {**copy.deepcopy(self.SETTINGS), key: "something else"}
        with pytest.raises(ValueError, match=f"other settings .{key} is .* there, 'something else' here.") as caught:
            read_threshold(path, here)
        assert path in str(caught.value)
        assert "give anomaly_threshold" in str(caught.value)
        assert sum(f"{k} is" in str(caught.value) for k in self.KEYS) == 1

    def test_of_a_methods_settings_the_one_that_differs_is_named(self, tmp_path):
        here = {**self.SETTINGS, "method": {"name": "Some", "noise_level": 100, "steps": 20}}
        with pytest.raises(ValueError, match=r"\(method\.noise_level is 200 there, 100 here\)"):
            read_threshold(self.file(tmp_path), here)

    @pytest.mark.parametrize("key", KEYS)
    def test_a_file_that_does_not_say(self, tmp_path, key):
        there = {k: v for k, v in calibrated(self.SETTINGS).items() if k != key}
        path = self.file(tmp_path, settings=there)
        with pytest.raises(ValueError, match=rf"{key}[.\w]* is None there"):
            read_threshold(path, self.SETTINGS)

    def test_a_setting_that_the_run_has_not(self, tmp_path):
        path = self.file(tmp_path, settings={**calibrated(self.SETTINGS), "brain_mask": "on"})
        with pytest.raises(ValueError, match=r"brain_mask is 'on' there, None here"):
            read_threshold(path, self.SETTINGS)

    def test_missing(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"calibration_file: no file '.*none\.json'; give anomaly_threshold"
        ):
            read_threshold(str(tmp_path / "none.json"), self.SETTINGS)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "text",
            "[]",
            "5",
            "{}",
            '{"threshold": 1}',
            '{"threshold": 1, "settings": 3}',
            '{"threshold": null, "settings": {}}',
            '{"threshold": "high", "settings": {}}',
            '{"threshold": NaN, "settings": {}}',
            '{"threshold": Infinity, "settings": {}}',
        ],
    )
    def test_broken(self, tmp_path, content):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(ValueError, match=r"calibration_file: '.*c\.json' is broken .*give anomaly_threshold"):
            read_threshold(str(tmp_path / "c.json"), self.SETTINGS)


def test_settings_of_a_used_method_stay_what_they_were(tmp_path):
    """Running it leaves no trace in what it says of itself: results and calibration are described at other times."""
    own = MaskedBernoulli(scheduler=BernoulliScheduler(20, beta_start=0.02, beta_end=0.3), noise_level=8)
    before = describe(own)
    inferer = AnomalyInferer(own, functools.partial(signed_residual, weights=[1.0, 1.0]))
    inferer(torch.rand(1, 2, 16, 16), tiny_network())
    assert describe(own) == before
