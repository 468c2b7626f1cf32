from __future__ import annotations

import json
import math

import numpy as np
import pytest

from scripts.evaluation.values import Estimate, estimate


def test_value_with_interval():
    result = estimate(np.float32(0.5), np.float64(0.25), 0.75)
    assert result == Estimate(0.5, 0.25, 0.75, None)
    assert all(type(v) is float for v in (result.value, result.low, result.high))


def test_interval_may_be_missing_with_a_remark():
    assert estimate(0.5) == Estimate(0.5)
    assert estimate(0.5, reason="1 subject") == Estimate(0.5, reason="1 subject")
    assert estimate(0.5, math.nan, math.inf) == Estimate(0.5)


def test_nan_must_have_a_reason():
    assert estimate(math.nan, 0.1, 0.2, "no lesion") == Estimate(None, reason="no lesion")
    with pytest.raises(ValueError, match=r"reason.*NaN"):
        estimate(math.nan)
    with pytest.raises(ValueError, match="reason"):
        Estimate(None)
    with pytest.raises(ValueError, match=r"reason.*''"):
        Estimate(None, reason="")


def test_infinite_is_said():
    assert estimate(math.inf) == Estimate(None, reason="infinite")
    assert estimate(math.inf, 1, 2, "perfect") == Estimate(None, reason="infinite: perfect")
    assert estimate(-math.inf) == Estimate(None, reason="minus infinite")


@pytest.mark.parametrize("name", ["value", "low", "high"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(name, number):
    with pytest.raises(ValueError, match=f"{name}.*{number}"):
        Estimate(**{"value": 0.5, name: number})


def test_dictionary_is_json():
    for result in (
        estimate(np.float64(0.5), np.float32(0.25), 1),
        estimate(math.nan, reason="none"),
        estimate(math.inf),
    ):
        record = result.as_dict()
        assert list(record) == ["value", "low", "high", "reason"]
        assert Estimate(**json.loads(json.dumps(record, allow_nan=False))) == result


@pytest.mark.parametrize(
    ("result", "digits", "text"),
    [
        (estimate(0.51234, 0.43, 0.6), 3, "0.512 [0.43, 0.60]"),
        (estimate(31.26, 30.04, 32.5), 1, "31.3 [30, 32]"),
        (estimate(2.6, 1.4, 3.6), 0, "3 [1, 4]"),
        (estimate(0.5), 2, "0.50"),
        (estimate(0.5, low=0.1), 2, "0.50"),
        (estimate(-0.25, reason="1 subject"), 3, "-0.250"),
        (estimate(math.nan, reason="no lesion"), 3, "not defined: no lesion"),
        (estimate(math.inf), 3, "not defined: infinite"),
    ],
)
def test_text(result, digits, text):
    assert result.text(digits) == text


def test_three_digits_by_default():
    assert estimate(1 / 3, 0, 1).text() == "0.333 [0.00, 1.00]"
