"""What things say of themselves."""

from __future__ import annotations

import json
from enum import Enum
from functools import partial

import numpy as np
import pytest
import torch
from helpers import residual_slices
from monai.bundle import ConfigParser
from monai.transforms import Compose, RandFlipd, ScaleIntensityd
from volume_files import configured

from scripts.describe import Undescribed, describe, differences
from scripts.scores import mask_density, signed_residual, squared_residual

NESTED = {
    "_target_": "scripts.scores.weighted_sum",
    "_mode_": "callable",
    "weights": [1, 0.5],
    "scores": [
        {"_target_": "scripts.scores.squared_residual", "_mode_": "callable"},
        {
            "_target_": "scripts.scores.product",
            "_mode_": "callable",
            "scores": [
                {"_target_": "scripts.scores.mask_density", "_mode_": "callable", "sigma": 1.5},
                {
                    "_target_": "scripts.scores.signed_residual",
                    "_mode_": "callable",
                    "weights": "$[-w for w in @signs]",
                    "sigma": 2.0,
                },
            ],
        },
    ],
}
"""A score of scores of scores, as a configuration holds it."""

DESCRIBED = {
    "name": "weighted_sum",
    "weights": [1, 0.5],
    "scores": [
        "squared_residual",
        {
            "name": "product",
            "scores": [
                {"name": "mask_density", "sigma": 1.5},
                {"name": "signed_residual", "weights": [1, -0.5], "sigma": 2.0},
            ],
        },
    ],
}
"""The same as results tell of it."""


class TestScores:
    @pytest.mark.parametrize(
        ("score", "wanted"),
        [
            (squared_residual, "squared_residual"),
            (partial(squared_residual), "squared_residual"),
            (partial(squared_residual, weights=None), {"name": "squared_residual", "weights": None}),
            (partial(signed_residual, weights=(1, -2)), {"name": "signed_residual", "weights": [1, -2]}),
            (
                partial(partial(signed_residual, sigma=1, weights=[1]), sigma=3),
                {"name": "signed_residual", "sigma": 3, "weights": [1]},
            ),
        ],
    )
    def test_names_and_keywords(self, score, wanted):
        assert describe(score) == wanted
        assert json.loads(json.dumps(describe(score))) == wanted

    def test_an_object_that_is_called(self):
        class MyScore:
            def __call__(self, image, reconstruction, evidence):
                return image

        assert describe(MyScore()) == {"name": "MyScore"}

    def test_configured_and_nested(self):
        parser = ConfigParser({"signs": [-1, 0.5], "score": NESTED})
        score = parser.get_parsed_content("score")
        described = describe(score)
        assert described == DESCRIBED
        assert json.loads(json.dumps(described)) == described
        image, reconstruction, evidence = residual_slices()
        signed = signed_residual(image, reconstruction, weights=[1, -0.5], sigma=2)
        dense = mask_density(image, reconstruction, evidence, sigma=1.5)
        wanted = squared_residual(image, reconstruction) + 0.5 * (signed * dense).sqrt()
        torch.testing.assert_close(score(image, reconstruction, evidence), wanted)

    def test_the_default(self):
        score = configured("anomaly_map", sequences=["t1", "flair"])
        assert describe(score) == {"name": "signed_residual", "sigma": 2.0, "weights": [-0.5, 1.0]}

    def test_the_papers(self):
        assert describe(configured("anomaly_map", "methods/masked_bernoulli_2024")) == "squared_residual"

    def test_those_to_compare(self):
        """Every one runs, none is another one under a second name."""
        scores = configured("scores", "evaluation", "scores", sequences=["t1", "flair"])
        described = [json.dumps(describe(score)) for score in scores.values()]
        assert len(set(described)) == len(scores) > 5
        image, reconstruction, evidence = residual_slices()
        maps = [score(image, reconstruction, evidence) for score in scores.values()]
        assert all(m.shape == (3, 1, *image.shape[2:]) and m.max() > 0 for m in maps)
        assert describe(scores["bright residual"]) == {"name": "signed_residual", "weights": [0.0, 1.0]}


class TestThings:
    def test_compose_leaves_out_what_does_not_matter(self):
        class Reading(Undescribed):
            pass

        class Own:
            def describe(self):
                return {"name": "own", "size": 3}

        assert describe(Compose([Reading(), Own()])) == [{"name": "own", "size": 3}]

    def test_a_transforms_settings_show_and_its_random_state_does_not(self):
        first, second = (RandFlipd("image", prob=0.5).set_random_state(seed=seed) for seed in (1, 2))
        assert describe(Compose([first])) == describe(Compose([second]))
        assert describe(Compose([first])) != describe(Compose([RandFlipd("image", prob=0.4)]))
        one, other = (Compose([ScaleIntensityd("image", maxv=top)]) for top in (1.0, 2.0))
        assert describe(one) != describe(other)
        assert json.loads(json.dumps(describe(one))) == describe(one)

    def test_networks_and_losses(self):
        said = describe(torch.nn.Linear(3, 2))
        assert (said["name"], said["in_features"], said["parameters"]) == ("Linear", 3, 8)
        network = torch.nn.Linear(3, 2)
        assert describe(network.train()) == describe(network.eval())
        assert describe(torch.nn.HuberLoss(delta=2.0)) != describe(torch.nn.HuberLoss(delta=1.0))

    def test_enums_and_arrays(self):
        class Kind(Enum):
            FIRST = "one"

        assert describe([Kind.FIRST, np.arange(3), torch.ones(2), np.float32(0.5)]) == ["one", [0, 1, 2], [1, 1], 0.5]
        large = np.zeros(65)
        said = describe(large)
        large[3] = 1
        assert said["shape"] == [65] and describe(large)["sha256"] != said["sha256"]


def test_differences_name_what_differs_only():
    there = {"method": {"name": "A", "level": 3, "same": 1}, "seed": 0, "gone": 1}
    here = {"method": {"name": "A", "level": 4, "same": 1}, "seed": 0}
    assert differences(there, here) == "gone is 1 there, None here; method.level is 3 there, 4 here"
    assert differences(there, here, ["seed"]) == ""
    assert differences(there, here, ["method"]) == "method.level is 3 there, 4 here"
    assert differences(there, there) == ""
