"""What results tell of a score."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from helpers import residual_slices
from monai.bundle import ConfigParser
from volume_files import configured

from scripts.scores import describe_score, mask_density, signed_residual, squared_residual

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


class TestDescription:
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
        assert describe_score(score) == wanted
        assert json.loads(json.dumps(describe_score(score))) == wanted

    def test_an_object_that_is_called(self):
        class MyScore:
            def __call__(self, image, reconstruction, mask):
                return image

        assert describe_score(MyScore()) == "MyScore"

    def test_configured_and_nested(self):
        parser = ConfigParser({"signs": [-1, 0.5], "score": NESTED})
        score = parser.get_parsed_content("score")
        described = describe_score(score)
        assert described == DESCRIBED
        assert json.loads(json.dumps(described)) == described
        image, reconstruction, mask = residual_slices()
        signed = signed_residual(image, reconstruction, weights=[1, -0.5], sigma=2)
        dense = mask_density(image, reconstruction, mask, sigma=1.5)
        wanted = squared_residual(image, reconstruction) + 0.5 * (signed * dense).sqrt()
        torch.testing.assert_close(score(image, reconstruction, mask), wanted)

    def test_the_default(self):
        score = configured("anomaly_map", sequences=["t1", "flair"])
        assert describe_score(score) == {"name": "signed_residual", "sigma": 2.0, "weights": [-0.5, 1.0]}

    def test_the_papers(self):
        for overlay in ("brats2020", "oct2017"):
            assert describe_score(configured("anomaly_map", overlay)) == "squared_residual"

    def test_those_to_compare(self):
        """Every one runs, none is another one under a second name."""
        scores = configured("scores", "evaluation", "scores", sequences=["t1", "flair"])
        described = [json.dumps(describe_score(score)) for score in scores.values()]
        assert len(set(described)) == len(scores) > 5
        image, reconstruction, mask = residual_slices()
        maps = [score(image, reconstruction, mask) for score in scores.values()]
        assert all(m.shape == (3, 1, *image.shape[2:]) and m.max() > 0 for m in maps)
        assert describe_score(scores["bright residual"]) == {"name": "signed_residual", "weights": [0.0, 1.0]}
