from __future__ import annotations

import math

import pytest
from report.fake_summary import METHODS, METRICS, ONE_CLASS, fake_summary

from scripts.report.metric_tables import difference_table, value_table
from scripts.report.names import methods_of
from scripts.report.small_tables import configuration, data_rows, lesion_sizes, threshold_rows


def summary_of(better: str, values: list, **more) -> dict:
    """One metric of methods a, b, c, ..."""
    table = {name: {"m": {"value": value, **more}} for name, value in zip("abcdef", values, strict=False)}
    return {"methods": {name: {} for name in table}, "metrics": {"m": {"better": better}}, "table": table}


def cells_of(summary: dict) -> list:
    [[(_, cells)]] = value_table(summary).groups.values()
    return cells


@pytest.mark.parametrize(
    ("better", "values", "best"),
    [
        ("high", [0.1, 0.9, 0.5], [1]),
        ("low", [0.1, 0.9, 0.5], [0]),
        ("", [0.1, 0.9, 0.5], []),
        ("low", [None, 0.9, 0.5], [2]),
        ("high", [math.nan, 0.2, -0.5], [1]),
        ("low", [math.inf, 0.2, -0.5], [2]),
        # What reads the same is marked the same.
        ("high", [0.50001, 0.5, 0.4], [0, 1]),
        # Nothing to be better than.
        ("high", [None, 0.5, None], []),
        ("high", [None, None], []),
    ],
)
def test_best_of_the_defined_values(better, values, best):
    cells = cells_of(summary_of(better, values))
    assert [number for number, cell in enumerate(cells) if cell.best] == best


def test_details_of_a_value():
    [cell] = cells_of(summary_of("high", [0.5], low=0.4, high=0.6, seed_sd=0.0123))
    assert (cell.text, cell.details) == ("0.500", ("[0.400, 0.600]", "± 0.0123 by seed"))
    assert (cell.note, cell.defined) == (None, True)


def test_a_remark_next_to_a_value():
    summary = summary_of("high", [0.5, 0.6], low=None, high=0.6, reason="one patient: no interval")
    first, second = cells_of(summary)
    assert (first.text, first.details, first.note, first.defined) == ("0.500", (), 1, True)
    assert second.note == 1
    assert value_table(summary).notes == ["one patient: no interval"]


def test_not_computed_is_not_undefined():
    summary = summary_of("high", [0.5, None])
    summary["methods"]["z"] = {}
    assert [cell.text for cell in cells_of(summary)] == ["0.500", "not defined", "not computed"]
    assert value_table(summary).notes == ["no reason was given"]


def test_groups_keep_their_order():
    table = value_table(fake_summary())
    assert list(table.groups) == list(dict.fromkeys(group for _, group, _ in METRICS.values()))
    assert [metric.title for rows in table.groups.values() for metric, _ in rows] == [m[0] for m in METRICS.values()]


def test_reference_comes_first():
    summary = {"reference": "b", "methods": {"a": {}, "b": {}, "c": {}}}
    assert [method.name for method in methods_of(summary)] == ["b", "a", "c"]


def test_differences():
    table = difference_table(fake_summary())
    assert [method.title for method in table.methods] == list(METHODS.values())[1:]
    assert table.notes == [ONE_CLASS]
    [(_, patients)] = table.groups["patients"]
    assert {cell.text for cell in patients} == {"not defined"}
    entry = {"value": -0.25, "low": -0.5, "high": 0.125, "p_value": 0.0004}
    [[(_, [cell])]] = difference_table(
        {"methods": {"a": {}}, "metrics": {"m": {}}, "differences": {"a": {"m": entry}}}
    ).groups.values()
    assert (cell.text, cell.details) == ("−0.250", ("[−0.500, 0.125]", "p < 0.001"))


def test_only_compared_metrics_have_differences():
    summary = fake_summary()
    summary["differences"] = {"flip": {"auprc": {"value": 0.5}}}
    table = difference_table(summary)
    assert [(method.name, list(table.groups)) for method in table.methods] == [("flip", ["pixel"])]


def test_thresholds():
    summary = {"methods": {"a": {}, "b": {}, "c": {}}}
    summary["thresholds"] = {"a": {"calibrated": [0.3, 0.1, None], "oracle": 0.25}, "b": {"calibrated": [0.5]}}
    first, second = threshold_rows(summary)
    assert (first.calibrated, first.folds) == ("0.200", "0.300, 0.100, not available")
    assert (first.oracle, first.deployed) == ("0.250", "not available")
    assert (second.calibrated, second.folds) == ("0.500", "")


def test_lesion_sizes():
    sizes = lesion_sizes(fake_summary())
    assert sizes.headings()[0].replace("\N{NO-BREAK SPACE}", " ") == "< 100 (n = 7)"
    title, line = sizes.rows()[0]
    assert (title, line[0], len(line)) == (METHODS["masked"], "not defined", 4)


def test_data_in_words():
    assert data_rows({"data": {"slices": 1234, "prevalence_image": 0.00084, "new_key": None}}) == [
        ("Slices", "1,234"),
        ("Share of lesion pixels in the whole image", "8.40\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10⁻⁴"),
        ("New key", "not available"),
    ]


def test_configuration():
    titles = [title for title, _ in configuration(fake_summary())]
    assert titles == ["Settings of the evaluation", "Settings of the methods", "Sampling seeds"]
    assert configuration({}) == []
