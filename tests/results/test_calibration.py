"""Settings that a threshold belongs to, and the file that holds it."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest

from scripts.results.calibration import CALIBRATED, describe_method, read_threshold
from scripts.schedulers import BernoulliScheduler

SCHEDULER = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)


class TestDescribeMethod:
    def describe(self, tmp_path, **kwargs) -> dict:
        (tmp_path / "model.pt").write_bytes(b"weights")
        arguments = {"scheduler": SCHEDULER, "noise_level": 200, "num_inference_steps": 20} | kwargs
        return describe_method(weights=str(tmp_path / "model.pt"), **arguments)

    def test_weights_by_content(self, tmp_path):
        described = self.describe(tmp_path, seed=3)
        assert described["weights"] == hashlib.sha256(b"weights").hexdigest()[:16]
        assert described["seed"] == 3
        assert self.describe(tmp_path, method="any", image_size=256)["method"] == "any"
        assert str(tmp_path) not in json.dumps(described)

    def test_steps_default_to_the_noise_level(self, tmp_path):
        assert self.describe(tmp_path, num_inference_steps=None) == self.describe(tmp_path, num_inference_steps=200)
        assert self.describe(tmp_path)["num_inference_steps"] == 20

    def test_noise_process(self, tmp_path):
        abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        process = self.describe(tmp_path)["noise_process"]
        assert process["num_train_timesteps"] == 1000
        assert process["alphas_cumprod"] == pytest.approx([abar[0], abar[199], abar[-1]], rel=1e-5)
        other = BernoulliScheduler(1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.03)
        assert self.describe(tmp_path, scheduler=other)["noise_process"] != process

    def test_missing_weights(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"weights: no file '.*none\.pt'"):
            describe_method(str(tmp_path / "none.pt"), SCHEDULER, 200, None)


class TestReadThreshold:
    SETTINGS = {key: f"value of {key}" for key in CALIBRATED} | {"sequences": ["t1"], "seed": 0}

    def file(self, tmp_path, **changes) -> str:
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps({**self.SETTINGS, "threshold": 0.125, "data": "x", **changes}))
        return str(path)

    def test_matching(self, tmp_path):
        assert read_threshold(self.file(tmp_path), self.SETTINGS) == 0.125

    def test_tuples_and_uncalibrated_settings_do_not_matter(self, tmp_path):
        here = {**self.SETTINGS, "sequences": ("t1",), "seed": 5, "slice_range": [1, 2]}
        assert read_threshold(self.file(tmp_path), here) == 0.125

    @pytest.mark.parametrize("given", [0, 0.0, 0.75, 3])
    def test_given(self, tmp_path, given):
        for path in (self.file(tmp_path, sequences="other"), str(tmp_path / "none.json")):
            threshold = read_threshold(path, self.SETTINGS, given)
            assert threshold == given
            assert isinstance(threshold, float)

    @pytest.mark.parametrize("key", CALIBRATED)
    def test_other_settings_are_named(self, tmp_path, key):
        path = self.file(tmp_path)
        here = copy.deepcopy(self.SETTINGS)
        here[key] = "something else"
        with pytest.raises(ValueError, match=f"other settings .{key} is .* there, 'something else' here.") as caught:
            read_threshold(path, here)
        assert path in str(caught.value)
        assert "give anomaly_threshold" in str(caught.value)
        assert sum(f"{k} is" in str(caught.value) for k in CALIBRATED) == 1

    @pytest.mark.parametrize("key", CALIBRATED)
    def test_a_file_that_does_not_say(self, tmp_path, key):
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps({k: v for k, v in {**self.SETTINGS, "threshold": 1.0}.items() if k != key}))
        with pytest.raises(ValueError, match=f"{key} is None there"):
            read_threshold(str(path), self.SETTINGS)

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
            '{"threshold": null}',
            '{"threshold": "high"}',
            '{"threshold": NaN}',
            '{"threshold": Infinity}',
        ],
    )
    def test_broken(self, tmp_path, content):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(ValueError, match=r"calibration_file: '.*c\.json' is broken .*give anomaly_threshold"):
            read_threshold(str(tmp_path / "c.json"), self.SETTINGS)
