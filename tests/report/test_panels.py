from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import same_color
from report.fake_summary import METHODS, fake_panel, fake_panels

from scripts.report import Panel
from scripts.report.panels import draw_panel, map_limits, panel_pictures


def panel_of(maps: dict[str, np.ndarray], group: str = "random") -> Panel:
    plane = np.zeros((6, 4))
    return Panel(group, "title", plane, None, maps, plane > 1, plane > 1)


def images_of(panel: Panel, limits: dict, column: int) -> list:
    return draw_panel(panel, limits).axes[column].get_images()


def test_one_scale_for_a_method_in_all_panels():
    panels = fake_panels()
    limits = map_limits(panels)
    assert list(limits) == list(METHODS.values())
    drawn = [(panel, draw_panel(panel, limits).axes) for panel in panels]
    for column, (title, top) in enumerate(limits.items(), start=2):
        shown = [panel for panel in panels if title in panel.maps]
        norms = [axes[column].get_images()[0].norm for panel, axes in drawn if title in panel.maps]
        assert {(norm.vmin, norm.vmax) for norm in norms} == {(0, top)}
        together = np.concatenate([panel.maps[title].ravel() for panel in shown])
        assert top == pytest.approx(np.percentile(together, 99.5))
    assert len(set(limits.values())) == len(limits)


@pytest.mark.parametrize(
    ("values", "top"), [([0] * 24, 1.0), ([0] * 23 + [np.nan], 1.0), ([np.inf] * 12 + [2] * 12, 2.0), ([-1] * 24, 1.0)]
)
def test_scale_of_odd_maps(values, top):
    assert map_limits([panel_of({"a": np.array(values, dtype=float).reshape(6, 4)})]) == {"a": top}


def test_a_few_pixels_above_zero_are_still_a_scale():
    sparse = np.zeros((100, 100))
    sparse[0, 0] = 0.25
    assert map_limits([panel_of({"a": sparse})]) == {"a": 0.25}


def test_x_is_to_the_right():
    panel = fake_panel("best", 0)
    limits = map_limits([panel])
    image = images_of(panel, limits, 0)[0].get_array()
    assert image.shape == (48, 64)
    assert np.allclose(image, panel.image.T)
    assert np.allclose(images_of(panel, limits, 2)[0].get_array(), next(iter(panel.maps.values())).T)


def test_colours_of_the_segmentation():
    plane = np.zeros((3, 2))
    label, marked = plane.astype(bool), plane.astype(bool)
    label[0, 0] = label[1, 0] = marked[1, 0] = marked[2, 0] = True
    axis = draw_panel(Panel("best", "t", plane, None, {}, label, marked), {}, False).axes[-1]
    shown = {}
    for layer in axis.get_images()[1:]:
        [(_, x)] = np.argwhere(~np.ma.getmaskarray(layer.get_array()))
        shown[int(x)] = layer.get_cmap()(0)
    legend = {
        text.get_text(): patch.get_facecolor()
        for text, patch in zip(axis.get_legend().get_texts(), axis.get_legend().get_patches(), strict=True)
    }
    assert list(legend) == ["true positive", "false positive", "false negative"]
    assert same_color(shown[1], legend["true positive"])
    assert same_color(shown[2], legend["false positive"])
    assert same_color(shown[0], legend["false negative"])


@pytest.mark.parametrize("label", [False, True])
def test_a_label_without_an_edge(label):
    panel = replace(panel_of({}), label=np.full((6, 4), label))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_panel(panel, {})


def test_what_a_panel_lacks_is_said():
    panel = fake_panel("worst", 1, reconstruction=False, methods=("masked",))
    axes = draw_panel(panel, {METHODS["masked"]: 1.0, METHODS["flip"]: 1.0}).axes
    assert [text.get_text() for axis in axes for text in axis.texts] == ["no reconstruction", "no map"]


def test_groups_in_order():
    panels = [panel_of({}, group) for group in ("other", "worst", "best", "random", "best")]
    pictures = panel_pictures(panels)
    assert {group: len(members) for group, members in pictures.items()} == {
        "Slices drawn at random": 1,
        "Best slices": 2,
        "Worst slices": 1,
        "other": 1,
    }
    assert next(iter(pictures)) == "Slices drawn at random"
    assert panel_pictures([]) == {}


def test_no_column_for_reconstructions_that_nobody_has():
    without = panel_pictures([panel_of({})])["Slices drawn at random"][0]
    image = np.ones((6, 4))
    having = panel_pictures([replace(panel_of({}), reconstruction=image)])["Slices drawn at random"][0]
    assert having.min_width == without.min_width * 3 / 2
