from __future__ import annotations

import math

import numpy as np
import pytest
from report.fake_summary import METHODS, fake_slices, fake_summary

from scripts.report.curves import calibration, curve_pictures, curves_of, froc, precision_recall
from scripts.report.drawing import plain
from scripts.report.histograms import draw_histogram, histogram_pictures
from scripts.report.lesion_size import (
    bar_picture,
    draw_bars,
    draw_scatter,
    lesion_points,
    scatter_omitted,
    scatter_pictures,
    size_medians,
)
from scripts.report.small_tables import lesion_sizes


def test_prevalence_is_a_line():
    figure = precision_recall(curves_of(fake_summary(), "precision_recall", "recall", "precision"), 0.0213)
    *lines, chance = figure.axes[0].get_lines()
    assert len(lines) == len(METHODS)
    assert list(chance.get_ydata()) == [0.0213, 0.0213]
    assert "0.0213" in chance.get_label()
    assert (
        len(
            precision_recall(curves_of(fake_summary(), "froc", "false_positives", "sensitivity"), None)
            .axes[0]
            .get_lines()
        )
        == 5
    )


def test_methods_without_a_curve_keep_the_others_colours():
    summary = fake_summary()
    whole = curves_of(summary, "froc", "false_positives", "sensitivity")
    del summary["curves"]["unmasked"]
    fewer = curves_of(summary, "froc", "false_positives", "sensitivity")
    colours = [[line.get_color() for line in froc(curves, "slice").axes[0].get_lines()] for curves in (whole, fewer)]
    assert colours[1] == [colours[0][0], *colours[0][2:]]
    assert len(set(colours[0])) == len(METHODS)


def test_false_positives_name_their_unit():
    curves = curves_of(fake_summary(), "froc", "false_positives", "sensitivity")
    assert froc(curves, "slice").axes[0].get_xlabel() == "false positives per slice"
    assert froc(curves).axes[0].get_xlabel() == "false positives"


def test_calibration_shows_zeros_on_the_edge():
    summary = {"methods": {"a": {}}, "curves": {"a": {"calibration": {"wanted": [0.01, 0.1], "realised": [0, 0.2]}}}}
    axis = calibration(curves_of(summary, "calibration", "wanted", "realised")).axes[0]
    line, diagonal = axis.get_lines()
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert list(line.get_ydata()) == [axis.get_ylim()[0], 0.2]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert axis.get_ylim() == axis.get_xlim() == pytest.approx((0.005, 0.4))


def test_calibration_of_zeros_only():
    summary = {"methods": {"a": {}}, "curves": {"a": {"calibration": {"wanted": [0], "realised": [0]}}}}
    assert len(curve_pictures(summary)) == 1


@pytest.mark.parametrize("points", [([], []), ([0.1], []), ([None], [0.5]), (None, None)])
def test_curves_without_a_point(points):
    summary = {
        "methods": {"a": {}},
        "curves": {"a": {"precision_recall": dict(zip(("recall", "precision"), points, strict=True))}},
    }
    assert curve_pictures(summary) == []


def test_bars_and_crosses():
    sizes = lesion_sizes(fake_summary())
    axis = draw_bars(sizes, dict.fromkeys(METHODS.values(), "black")).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axis.containers]
    assert np.allclose(heights, np.nan_to_num(list(sizes.sensitivity.values())))
    # One cross a method, in the class where nothing is defined.
    assert [len(line.get_xdata()) for line in axis.get_lines()] == [1] * len(METHODS)
    assert bar_picture({}) is None


def test_points_are_those_of_lesions():
    rows = [
        {"method": "a", "diseased": 1, "lesion_pixels": 10, "dice_calibrated": 0.5},
        {"method": "a", "diseased": "1", "lesion_pixels": "20", "dice_calibrated": "0.25"},
        {"method": "a", "diseased": 0, "lesion_pixels": 0, "dice_calibrated": 1.0},
        {"method": "a", "diseased": 1, "lesion_pixels": 30, "dice_calibrated": ""},
        {"method": "a", "diseased": 1, "lesion_pixels": 0, "dice_calibrated": 0.1},
        {"method": "b", "diseased": 1, "lesion_pixels": 40, "dice_calibrated": 0.5},
        {},
    ]
    pixels, dice = lesion_points(rows, "a")
    assert (pixels.tolist(), dice.tolist()) == ([10, 20], [0.5, 0.25])


def test_medians_of_size_bins():
    pixels = np.array([1, 1, 1, 12, 1000, 1000, 1000.0])
    dice = np.array([0.1, 0.2, 0.9, 0.5, 0.3, 0.6, 0.7])
    middles, medians = size_medians(pixels, dice, bins=3)
    # The lone slice of 12 pixels has no median.
    assert middles == pytest.approx([math.sqrt(10), 10**2.5])
    assert medians == pytest.approx([0.2, 0.6])


def test_all_lesions_of_one_size():
    _, medians = size_medians(np.full(5, 7.0), np.arange(5) / 10)
    assert medians == pytest.approx([0.2])
    assert draw_scatter(np.full(1, 7.0), np.ones(1), "black", (5, 9)).axes[0].get_xscale() == "log"


def test_six_scatters_at_most():
    summary = {"methods": {str(number): {"title": f"method {number}"} for number in range(8)}}
    row = {"diseased": 1, "lesion_pixels": 10, "dice_calibrated": 0.5}
    rows = [{**row, "method": str(number)} for number in range(8)]
    assert len(scatter_pictures(summary, rows)) == 6
    assert scatter_omitted(summary, rows) == ["method 6", "method 7"]
    assert len(scatter_pictures(fake_summary(), fake_slices(10))) == 5
    assert scatter_pictures(summary, []) == []


def test_histograms_are_shares():
    counts = {"healthy": np.array([3.0, 1.0]), "diseased": np.array([0.0, 2.0])}
    axis = draw_histogram("Score", np.array([0.0, 1.0, 2.0]), counts).axes[0]
    healthy, diseased = (patch.get_data().values for patch in axis.patches)
    assert healthy.tolist() == [0.75, 0.25]
    assert np.isnan(diseased[0]) and diseased[1] == 1
    assert [patch.get_label() for patch in axis.patches] == ["healthy (n = 4)", "diseased (n = 2)"]


def test_wide_scores_are_logarithmic():
    counts = {"healthy": np.array([3.0, 1.0])}
    assert draw_histogram("s", np.array([0.01, 1.0, 20.0]), counts).axes[0].get_xscale() == "log"
    assert draw_histogram("s", np.array([1.0, 2.0, 3.0]), counts).axes[0].get_xscale() == "linear"


def test_histograms_that_do_not_fit_are_left_out():
    good = {"edges": [0, 1, 2], "healthy": [1, 2], "diseased": [0, 0]}
    bad = {"edges": [0, 1, 2], "healthy": [1, 2, 3]}
    assert len(histogram_pictures({"score_histograms": {"a": good, "b": bad, "c": {}}})) == 1


def test_text_is_no_formula():
    assert plain("costs $1 or $2") == r"costs \$1 or \$2"
    assert plain("one two three four five six", 9, 2) == "one two\nthree …"
