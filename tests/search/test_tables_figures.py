"""Tables, figures and the winner, from cells made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score
from small_method import Blur, masked

from scripts.evaluation.bins import Bins
from scripts.evaluation.outputs import write_table
from scripts.search import Grid, searched_note
from scripts.search.cells import Cell
from scripts.search.figures import HEAT_METRICS, heat_axes, heat_maps, heat_values, save_figure, score_boxes
from scripts.search.tables import (
    SettingSummary,
    best_setting,
    dice_at_rate,
    metric_columns,
    metric_names,
    summarise_setting,
)
from scripts.search.tables import without_nan as cleaned
from scripts.search.winner import winner_record

BINS = Bins()
STEPS = [3, 6]
GRID = Grid(masked(), {"noise_level": [4, 8], "probability_threshold": [0.2, 0.5, 0.9], "num_inference_steps": STEPS})


def pixels(seed: int = 0, lesion: int = 300, healthy: int = 2000, beside: int = 900) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    values = {"lesion": rng.gamma(3, 1, lesion), "healthy": rng.gamma(1, 1, healthy), "beside": rng.gamma(2, 1, beside)}
    # Values that are the lower edges of their bins, so that binning loses nothing.
    return {k: BINS.lower[BINS.index(v)].astype(np.float32) for k, v in values.items()}


def cell_of(values: dict[str, np.ndarray], seed: int = 0, diseased: tuple[int, ...] = (0, 1, 0, 1, 1)) -> Cell:
    shares = np.random.default_rng(seed).random(len(diseased))
    counts = {name: BINS.histogram(v) for name, v in values.items()}
    return Cell(
        **counts,
        diseased=np.array(diseased, dtype=bool),
        map_mean=shares / 2,
        seconds=np.array(2.0),
        slice_scores={"mask_share": shares, "surprise": np.sqrt(shares)[::-1]},
    )


def summaries(grid: Grid = GRID) -> dict[str, SettingSummary]:
    return {
        setting.name: summarise_setting(setting, cell_of(pixels(number), number), 2, BINS, 0.01)
        for number, setting in enumerate(grid.settings)
    }


def test_metrics_equal_those_of_the_pixels():
    values, cell = pixels(), cell_of(pixels())
    row = metric_columns(cell, BINS, 0.05)
    free = np.concatenate([values["healthy"], values["beside"]])
    scores, truth = np.concatenate([values["lesion"], free]), np.repeat([True, False], [300, len(free)])
    assert row["average_precision"] == pytest.approx(average_precision_score(truth, scores))
    assert row["auroc"] == pytest.approx(roc_auc_score(truth, scores))
    dice = [2 * (truth & (scores >= t)).sum() / ((scores >= t).sum() + truth.sum()) for t in np.unique(scores)]
    assert row["best_dice"] == pytest.approx(max(dice))
    # The lowest threshold that at most 5 % of the healthy pixels exceed.
    threshold = row["healthy_rate_threshold"]
    assert (values["healthy"] > threshold).mean() <= 0.05 < (values["healthy"] >= threshold * 0.98).mean()
    predicted = scores > threshold
    assert row["dice_at_healthy_rate"] == pytest.approx(2 * (truth & predicted).sum() / (predicted.sum() + truth.sum()))
    assert set(metric_names(["mask_share", "surprise"])) <= row.keys()
    for name, slices in cell.slice_scores.items():
        assert row[f"{name}_auroc"] == pytest.approx(roc_auc_score(cell.diseased, slices))
        assert row[f"{name}_healthy"] == pytest.approx(slices[[0, 2]].mean())
        assert row[f"{name}_diseased"] == pytest.approx(slices[[1, 3, 4]].mean())
    assert row["map_mean_diseased"] == pytest.approx(cell.map_mean[[1, 3, 4]].mean())
    assert row["seconds_per_slice"] == pytest.approx(0.4) and (row["slices"], row["diseased_slices"]) == (5, 3)


def test_what_is_not_defined_is_empty(tmp_path: Path):
    healthy = cell_of(pixels(lesion=0, beside=0), diseased=(0, 0))
    ill = cell_of(pixels(healthy=0), diseased=(1, 1))
    rows = cleaned(metric_columns(cell, BINS, 0.01) for cell in (healthy, ill))
    write_table(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open() as stream:
        first, second = csv.DictReader(stream)
    empty = {k for k, v in first.items() if v == ""}
    assert empty == {
        "average_precision",
        "auroc",
        "best_dice",
        "dice_at_healthy_rate",
        "mask_share_diseased",
        "mask_share_auroc",
        "surprise_diseased",
        "surprise_auroc",
        "map_mean_diseased",
    }
    assert {"dice_at_healthy_rate", "healthy_rate_threshold", "mask_share_healthy"} <= {
        k for k, v in second.items() if v == ""
    }
    assert "nan" not in (tmp_path / "t.csv").read_text()


def test_no_pixel_lies_above_an_unreachable_rate():
    # All healthy pixels share one bin: no threshold but the highest of all has so few above it.
    values = {"lesion": np.full(9, 1e9), "healthy": np.full(50, 1e9), "beside": np.ones(3)}
    threshold, dice = dice_at_rate(cell_of(values), BINS, 0.01)
    assert threshold == np.finfo(np.float32).max and dice == 0


def test_metrics_of_a_method_without_scores_of_slices():
    assert metric_names() == ("average_precision", "auroc", "best_dice", "dice_at_healthy_rate")
    assert metric_names(["a", "b"])[4:] == ("a_auroc", "b_auroc")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes if axis.images for text in axis.texts]


def labels(found) -> list[str]:
    return [label.get_text() for label in found]


def test_heat_maps_show_the_table(tmp_path: Path):
    found = summaries()
    expected = []
    for metric in HEAT_METRICS:
        for count in STEPS:
            values = heat_values(found, GRID, metric, {"num_inference_steps": count})
            assert values.shape == (2, 3)
            for row, level in enumerate([4, 8]):
                for column, p in enumerate(["0.2", "0.5", "0.9"]):
                    # Six steps are cut to four at noise level 4.
                    assert values[row, column] == found[f"L{level}_P{p}_S{min(level, count)}"].row[metric]
            expected += [f"{value:.3f}" for value in values.reshape(-1)]
    figure = heat_maps(found, GRID, "caption")
    assert texts(figure) == expected
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title().split("\n")[1] for axis in panels] == ["steps 3", "steps 6"] * 2
    shown = heat_values(found, GRID, "average_precision", {"num_inference_steps": 6})
    np.testing.assert_array_equal(panels[1].images[0].get_array(), shown)
    # The same colours in both panels of a metric, or they could not be compared.
    assert panels[0].images[0].get_clim() == panels[1].images[0].get_clim()
    assert labels(panels[0].get_xticklabels()) == ["0.2", "0.5", "0.9"]
    assert labels(panels[0].get_yticklabels()) == ["4", "8"]
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("threshold P", "noise level L")
    assert figure.get_suptitle() == "caption"
    save_figure(tmp_path / "heat_map.png", figure)
    assert (tmp_path / "heat_map.png").read_bytes().startswith(b"\x89PNG")


def test_heat_maps_of_two_axes_of_another_method(tmp_path: Path):
    grid = Grid(Blur(), {"width": [3, 1, None], "edge": ["wrap", "mirror"]})
    found = summaries(grid)
    figure = heat_maps(found, grid)
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == list(HEAT_METRICS.values())
    wanted = [[found[f"W{w}_edge-{e}"].row["average_precision"] for e in ("wrap", "mirror")] for w in (1, 3, None)]
    np.testing.assert_array_equal(panels[0].images[0].get_array(), wanted)
    assert labels(panels[0].get_xticklabels()) == ["wrap", "mirror"]
    assert labels(panels[0].get_yticklabels()) == ["1", "3", "all"]
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("edge", "width of the blur")
    boxes = score_boxes(found, grid, "surprise")
    assert len(boxes.axes) == 1 and boxes.axes[0].get_ylabel() == "surprise"
    assert labels(boxes.axes[0].get_xticklabels())[1] == "W 1\nedge mirror"
    save_figure(tmp_path / "heat_map.png", figure)


def test_figures_of_one_axis(tmp_path: Path):
    grid = Grid(Blur(), {"repeats": [4, 1, 2]})
    found = summaries(grid)
    figure = heat_maps(found, grid)
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == len(HEAT_METRICS)
    for panel, metric in zip(panels, HEAT_METRICS, strict=True):
        values = [[found[f"R{count}"].row[metric]] for count in (1, 2, 4)]
        np.testing.assert_array_equal(panel.images[0].get_array(), values)
        assert labels(panel.get_yticklabels()) == ["1", "2", "4"] and labels(panel.get_xticklabels()) == []
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("", "repeats")
    boxes = score_boxes(found, grid, "mask_share")
    assert medians(boxes.axes[0]) == wanted_medians([found[f"R{count}"] for count in (1, 2, 4)], "mask_share")
    assert labels(boxes.axes[0].get_xticklabels()) == ["R 1", "R 2", "R 4"]
    for name, shown in (("heat_map.png", figure), ("mask_share.png", boxes)):
        save_figure(tmp_path / name, shown)
        assert (tmp_path / name).stat().st_size > 10_000


def test_an_axis_of_one_value_goes_to_the_panels():
    grid = Grid(masked(), {"noise_level": [8], "probability_threshold": [0.2, 0.5], "num_inference_steps": [3, 6]})
    rows, columns, rest = heat_axes(grid)
    assert [axis.field for axis in (rows, columns, *rest)] == [
        "probability_threshold",
        "num_inference_steps",
        "noise_level",
    ]
    found = summaries(grid)
    wanted = [[found[f"L8_P{p}_S{s}"].row["best_dice"] for s in (3, 6)] for p in (0.2, 0.5)]
    np.testing.assert_array_equal(heat_values(found, grid, "best_dice", {"noise_level": 8}), wanted)


def test_heat_maps_of_one_setting_and_of_nothing_defined(tmp_path: Path):
    grid = Grid(masked(), {"noise_level": [4], "probability_threshold": [0.5], "num_inference_steps": [None]})
    cell = cell_of(pixels(lesion=0, beside=0), diseased=(0, 0))
    found = {s.name: summarise_setting(s, cell, 1, BINS, 0.01) for s in grid.settings}
    figure = heat_maps(found, grid)
    assert texts(figure) == ["–", "–"]
    save_figure(tmp_path / "heat_map.png", figure)
    # No diseased slice: its boxes are empty.
    save_figure(tmp_path / "mask_share.png", score_boxes(found, grid, "mask_share"))
    assert best_setting(list(found.values()), "average_precision") is None


@pytest.mark.parametrize("score", ["mask_share", "surprise"])
def test_a_pair_of_boxes_a_setting(tmp_path: Path, score: str):
    found = summaries()
    figure = score_boxes(found, GRID, score, "caption")
    assert len(figure.axes) == 2
    for axis, count in zip(figure.axes, STEPS, strict=True):
        places = [found[GRID.setting(level, p, count).name] for level in (4, 8) for p in (0.2, 0.5, 0.9)]
        assert medians(axis) == wanted_medians(places, score)
        assert len(axis.patches) == 12
        assert axis.get_title() == f"steps {count}" and axis.get_ylabel() == score.replace("_", " ")
        assert labels(axis.get_xticklabels())[:2] == ["L 4\nP 0.2", "L 4\nP 0.5"]
    save_figure(tmp_path / "mask_share.png", figure)
    assert (tmp_path / "mask_share.png").stat().st_size > 10_000


def medians(axis) -> list[float]:
    """In the order drawn: healthy boxes first, each kind in the order of places.

    A median is a black horizontal line as wide as its box; the ends of whiskers are half as wide.
    """
    lines = [line for line in axis.lines if line.get_color() == "black" and _flat(line)]
    return [round(float(line.get_ydata()[0]), 12) for line in lines if np.ptp(line.get_xdata()) > 0.3]


def wanted_medians(found: list[SettingSummary], score: str) -> list[float]:
    values = [np.median(s.slice_scores[score][s.diseased == ill]) for ill in (False, True) for s in found]
    return [round(float(value), 12) for value in values]


def _flat(line) -> bool:
    heights = line.get_ydata()
    return len(heights) == 2 and heights[0] == heights[1]


def test_best_is_the_highest_and_the_cheapest_of_equals():
    found = list(summaries().values())
    assert best_setting(found, "auroc").row["auroc"] == max(s.row["auroc"] for s in found)
    same = [summarise_setting(s, cell_of(pixels()), 1, BINS, 0.01) for s in GRID.settings]
    assert best_setting(same, "auroc").setting is GRID.setting(4, 0.2, 3)


def test_note_names_the_subjects(tmp_path: Path):
    best = summaries()["L8_P0.5_S6"]
    record = winner_record(best, "average_precision", ["A", "B"], 3)
    assert record["setting"] == {
        "name": "L8_P0.5_S6",
        "noise_level": 8,
        "probability_threshold": 0.5,
        "num_inference_steps": 6,
    }
    path = tmp_path / "winner.json"
    path.write_text(json.dumps(record))
    (note,) = searched_note(str(path))
    assert "L8_P0.5_S6" in note and "average precision on 2 subjects: A, B." in note and "optimistic" in note
    (anonymous,) = searched_note(str(path), names=False)
    assert "on 2 subjects. " in anonymous and "A, B" not in anonymous
    assert searched_note(None) == []
    with pytest.raises(FileNotFoundError, match=r"no file '/nowhere/winner.json'"):
        searched_note("/nowhere/winner.json")
    for content in ("{", "[]", '{"metric": "auroc"}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"is no winner.json of a search"):
            searched_note(str(path))
