from __future__ import annotations

import math

import pytest

from scripts.report.numbers import count_text, finite, interval_text, number_text, p_value_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1, "1.00"),
        (0.98765, "0.988"),
        (0.9996, "1.00"),
        (0.5, "0.500"),
        (-0.0123, "−0.0123"),
        (0.001, "0.00100"),
        (0.00099949, "9.99 × 10⁻⁴"),
        (0.00099999, "0.00100"),
        (1.2345e-12, "1.23 × 10⁻¹²"),
        (12.345, "12.3"),
        (99.96, "100"),
        (999.6, "1,000"),
        (12345, "12,300"),
        (-999999, "−1.00 × 10⁶"),
        (3.456e8, "3.46 × 10⁸"),
    ],
)
def test_three_digits(value, text):
    assert number_text(value).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize("value", [None, "", "x", math.nan, math.inf, "nan", [1]])
def test_no_number(value):
    assert finite(value) is None


def test_numbers_of_tables_are_text():
    assert finite("0.25") == 0.25


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "12,345"),
        (0, "0"),
        (0.0213, "0.0213"),
        ("2D", "2D"),
        (None, "not available"),
        (math.nan, "not available"),
    ],
)
def test_counts(value, text):
    assert count_text(value) == text


def test_intervals_have_both_ends():
    assert interval_text(-0.5, 0.25) == "[−0.500, 0.250]"
    assert interval_text(None, 0.25) == interval_text(0.25, math.nan) == ""


@pytest.mark.parametrize(
    ("value", "text"), [(0.0004, "p < 0.001"), (0.0123, "p = 0.012"), (1, "p = 1.000"), (None, "")]
)
def test_p_values(value, text):
    assert p_value_text(value) == text
