"""The grid of settings, and which subjects are drawn."""

from __future__ import annotations

import dataclasses

import pytest
from small_method import SCHEDULER, Blur, masked

from scripts.search import Grid, draw_subjects

GOOD = {"noise_level": [200], "probability_threshold": [0.5], "num_inference_steps": [20]}


def grid(levels: list, thresholds: list, steps: list) -> Grid:
    axes = {"noise_level": levels, "probability_threshold": thresholds, "num_inference_steps": steps}
    return Grid(masked(), axes)


def test_all_combinations_each_once_and_named():
    names = [s.name for s in grid([200, 100], [0.5, 0], [50, 20]).settings]
    assert names == [f"L{level}_P{p}_S{s}" for s in (20, 50) for level in (100, 200) for p in ("0", "0.5")]


def test_names_tell_close_thresholds_apart():
    close = [0.1 + 0.2, 0.3, 1e-5, 1.0]
    made = grid([1], close, [1])
    names = [made.setting(1, p, 1).name for p in close]
    assert len(set(names)) == 4
    assert names[1:] == ["L1_P0.3_S1", "L1_P0.00001_S1", "L1_P1_S1"]


def test_steps_are_cut_to_the_noise_level(caplog):
    caplog.set_level("INFO")
    made = grid([10, 100], [0.5], [20, 50, None])
    taken = [(s.method.noise_level, s.method.passes) for s in made.settings]
    assert taken == [(10, 10), (100, 20), (100, 50), (100, 100)]
    assert [s.values["num_inference_steps"] for s in made.settings] == [10, 20, 50, 100]
    assert made.setting(10, 0.5, 50) is made.setting(10, 0.5, None) is made.setting(10, 0.5, 20)
    assert made.setting(10, 0.5, 50).name == "L10_P0.5_S10"
    assert made.axes[2].values == (20, 50, None)
    assert "num_inference_steps 50 is taken as 10" in caplog.text


def test_whole_numbers_may_come_as_floats_and_thresholds_as_integers():
    made, again = grid([200.0], [0, 1], [20.0]).settings, grid([200], [0.0, 1.0], [20]).settings
    assert [s.name for s in made] == [s.name for s in again] == ["L200_P0_S20", "L200_P1_S20"]
    assert [s.values for s in made] == [s.values for s in again]
    assert type(made[0].values["noise_level"]) is type(made[0].values["num_inference_steps"]) is int


def test_a_setting_is_the_method_with_its_values_and_nothing_else_changed():
    base = masked(noise_level=300, num_inference_steps=7, compile_mode="default")
    for setting in Grid(base, {"probability_threshold": [0.2, 0.8]}).settings:
        kept = {f.name: getattr(setting.method, f.name) for f in dataclasses.fields(base)}
        threshold = kept.pop("probability_threshold")
        assert setting.values == setting.columns == {"probability_threshold": threshold}
        assert setting.name == f"P{threshold}"
        assert kept == {
            "scheduler": SCHEDULER,
            "noise_level": 300,
            "num_inference_steps": 7,
            "compile_mode": "default",
        }


def test_fields_of_any_method_are_axes():
    """Those with a symbol, a label and a column of their own, and those without; values that are no numbers."""
    made = Grid(
        Blur(), {"width": [3.0, 1.5, None], "repeats": [2, 1], "edge": ["wrap", "mirror"], "keep": [True, False]}
    )
    width, repeats, edge, keep = made.axes
    assert dataclasses.astuple(width) == ("width", (1.5, 3.0, None), "W", "width of the blur", "width_px")
    assert dataclasses.astuple(repeats) == ("repeats", (1, 2), "R", "repeats", "repeats")
    # No order among texts but the one they came in.
    assert dataclasses.astuple(edge) == ("edge", ("wrap", "mirror"), "edge-", "edge", "edge")
    assert keep.values == (False, True)
    assert len(made.settings) == 24
    setting = made.setting(1.5, 2, "mirror", True)
    assert setting.name == "W1.5_R2_edge-mirror_keep-True"
    assert setting.columns == {"width_px": 1.5, "repeats": 2, "edge": "mirror", "keep": True}
    assert (setting.method.width, setting.method.repeats, setting.method.edge) == (1.5, 2, "mirror")
    # The cheapest first, and among those the axes from the last to the first.
    assert [s.method.repeats for s in made.settings] == [1] * 12 + [2] * 12
    places = [(s.method.width, s.method.edge, s.method.keep) for s in made.settings[:12]]
    assert places == [(w, e, k) for w in (1.5, 3.0, None) for e in ("wrap", "mirror") for k in (False, True)]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("noise_level", [], "noise_level must be a list with at least one value, got []"),
        ("noise_level", 200, "noise_level must be a list"),
        ("noise_level", [200, 1001, 0], "noise_level must be a whole number in [1, 1000], got 0"),
        ("noise_level", [200, 1001, 0], "noise_level must be a whole number in [1, 1000], got 1001"),
        ("noise_level", [1.5, True, "3"], "got 1.5"),
        ("noise_level", [1.5, True, "3"], "got True"),
        ("noise_level", [1.5, True, "3"], "got '3'"),
        ("noise_level", [None], "got None"),
        ("noise_level", [100, 200, 100.0], "noise_level holds a value twice: 100"),
        ("noise_level", [[100], {"a": 1}], "noise_level must hold numbers, texts or null, got [100], {'a': 1}"),
        ("probability_threshold", [-0.1, 0.5, 1.1], "probability_threshold must be a number in [0, 1], got -0.1"),
        ("probability_threshold", [-0.1, 0.5, 1.1], "probability_threshold must be a number in [0, 1], got 1.1"),
        ("probability_threshold", [float("nan")], "got nan"),
        ("probability_threshold", "0.5", "got '0.5'"),
        ("num_inference_steps", [], "num_inference_steps must be a list"),
        ("num_inference_steps", [0], "num_inference_steps must be a whole number in [1, "),
        ("num_inference_steps", [None, None], "num_inference_steps holds a value twice: None"),
    ],
)
def test_refuses_what_is_out_of_range(key, value, message):
    with pytest.raises(ValueError) as error:
        Grid(masked(), {**GOOD, key: value})
    assert message in str(error.value)
    # Nothing else is found fault with.
    assert not any(other in str(error.value) for other in GOOD if other != key)


def test_names_all_wrong_axes_at_once():
    wrong = {"noise_levels": [3], "width": [-1, 2], "repeats": [], "edge": ["wrap", "wrap"], "keep": ["yes", True]}
    with pytest.raises(ValueError) as error:
        Grid(Blur(), wrong)
    for part in (
        "search_axes: Blur has no setting 'noise_levels' to search over, it has width, repeats",
        "width must be a number in [0, inf], got -1",
        "repeats must be a list with at least one value, got []",
        "edge holds a value twice: 'wrap'",
        "keep must be true or false, got 'yes'",
    ):
        assert part in str(error.value)
    assert "got 2" not in str(error.value) and "got True" not in str(error.value)


def test_a_value_twice_and_one_that_is_refused_are_both_named():
    with pytest.raises(ValueError, match=r"got -3.*holds a value twice: 4"):
        Grid(Blur(), {"width": [4, -3, 4.0]})


def test_refuses_no_axes_and_what_results_do_not_depend_on():
    with pytest.raises(ValueError, match="Blur can be searched over width, repeats"):
        Grid(Blur(), {})
    with pytest.raises(ValueError, match="MaskedBernoulli has no setting 'compile_mode' to search over"):
        Grid(masked(), {"compile_mode": ["default", None]})


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
