"""The grid of settings, and which subjects are drawn."""

from __future__ import annotations

import pytest

from scripts.search import Grid, draw_subjects
from scripts.search.grid import Setting

GOOD = {"noise_levels": [200], "probability_thresholds": [0.5], "step_counts": [20]}


def test_all_combinations_each_once_and_named():
    names = [s.name for s in Grid([200, 100], [0.5, 0], [50, 20]).settings]
    assert names == [f"L{level}_P{p}_S{s}" for s in (20, 50) for level in (100, 200) for p in ("0", "0.5")]


def test_names_tell_close_thresholds_apart():
    close = [0.1 + 0.2, 0.3, 1e-5, 1.0]
    names = [Setting(1, p, 1).name for p in close]
    assert len(set(names)) == 4
    assert names[1:] == ["L1_P0.3_S1", "L1_P0.00001_S1", "L1_P1_S1"]


def test_steps_are_cut_to_the_noise_level():
    grid = Grid([10, 100], [0.5], [20, 50, None])
    assert [(s.noise_level, s.steps) for s in grid.settings] == [(10, 10), (100, 20), (100, 50), (100, 100)]
    assert grid.setting(10, 0.5, 50) == grid.setting(10, 0.5, None) == Setting(10, 0.5, 10)
    assert grid.step_counts == [20, 50, None]


def test_whole_numbers_may_come_as_floats_and_thresholds_as_integers():
    assert Grid([200.0], [0, 1], [20.0]).settings == [Setting(200, 0.0, 20), Setting(200, 1.0, 20)]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("noise_levels", [], "noise_levels must be a list with at least one value, got []"),
        ("noise_levels", 200, "noise_levels must be a list"),
        ("noise_levels", [200, 1001, 0], r"noise_levels must hold whole numbers in [1, 1000], got 1001, 0"),
        ("noise_levels", [1.5, True, "3"], "got 1.5, True, '3'"),
        ("noise_levels", [100, 200, 100.0], "noise_levels holds a value twice: 100"),
        ("probability_thresholds", [-0.1, 0.5, 1.1], "probability_thresholds must hold numbers in [0, 1], got -0.1"),
        ("probability_thresholds", [float("nan")], "got nan"),
        ("probability_thresholds", "0.5", "got '0.5'"),
        ("step_counts", [], "step_counts must be a list"),
        ("step_counts", [0], "step_counts must hold whole numbers of at least 1, or null, got 0"),
        ("step_counts", [None, None], "step_counts holds a value twice: None"),
    ],
)
def test_refuses_what_is_out_of_range(key, value, message):
    with pytest.raises(ValueError) as error:
        Grid(**{**GOOD, key: value})
    assert message in str(error.value)


def test_names_all_wrong_keys_at_once():
    with pytest.raises(ValueError, match=r"noise_levels.*probability_thresholds.*step_counts"):
        Grid([0], [2], [-1])


def items(count: int) -> list[dict]:
    return [{"subject": f"S{i}", "patient": f"P{i // 2}", "label": "l"} for i in range(count)]


def test_draws_whole_patients_by_seed_and_more_include_fewer():
    few, more = draw_subjects(items(20), 2, seed=3), draw_subjects(items(20), 5, seed=3)
    assert len(few) == 4 and len({item["patient"] for item in few}) == 2
    assert {item["subject"] for item in few} < {item["subject"] for item in more}
    assert few == draw_subjects(items(20), 2, seed=3)
    assert any(draw_subjects(items(20), 2, seed=seed) != few for seed in range(4))
    # In the order of the data list.
    assert more == [item for item in items(20) if item in more]


def test_draws_labelled_subjects_only():
    mixed = [*items(4), {"subject": "N", "patient": "N"}, {"subject": "H", "patient": "H", "healthy": True}]
    assert {item["subject"] for item in draw_subjects(mixed)} == {"S0", "S1", "S2", "S3", "H"}
    # Without any label named, labels may lie inside the image files.
    bare = [{"subject": "N"}, {"subject": "M"}]
    assert draw_subjects(bare) == bare


def test_all_subjects_where_more_are_asked_for(caplog):
    assert draw_subjects(items(4), 6) == items(4)
    assert "search_subjects is 6, there are 2" in caplog.text


@pytest.mark.parametrize(("key", "arguments"), [("search_subjects", (0, 0)), ("search_seed", (None, -1))])
def test_refuses_wrong_draws(key, arguments):
    with pytest.raises(ValueError, match=f"{key} must be a whole number"):
        draw_subjects(items(4), *arguments)
