"""Which methods a table has, from configured folders."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import numpy as np
import pytest
from small_study import SCORE, Study, make_body

from scripts.evaluation import gather_methods
from scripts.evaluation.sources import ForeignMaps, ImageScore, StoredResults
from scripts.scores import absolute_residual, bright_sequence, signed_residual, squared_residual
from scripts.writers import VolumeWriter

LAYOUT = VolumeWriter(None, 0.0)
CONFIGURED = functools.partial(signed_residual, weights=[-0.5, 1.0], sigma=2.0)
BRIGHT = functools.partial(bright_sequence, channel=0)


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    """Three result folders, an empty one, and one with maps of another method."""
    study = Study(tmp_path, [make_body("a", 0)])
    result = {name: study.results(name, study.maps(0), seed=i) for i, name in enumerate(("main", "second", "third"))}
    for name in ("empty", "foreign"):
        (tmp_path / name).mkdir()
        result[name] = str(tmp_path / name)
    return result


def gather(main: str, **kwargs):
    return gather_methods(LAYOUT, CONFIGURED, main, **kwargs)


def test_order_and_kinds(folders):
    methods = gather(
        folders["main"],
        comparisons={"seeds": [folders["second"], folders["third"]], "one": folders["second"]},
        maps_dir={"other": folders["foreign"]},
        image_scores={"bright": BRIGHT},
        scores={"squared": squared_residual, "absolute": absolute_residual},
    )
    assert list(methods) == ["masked", "seeds", "one", "other", "bright", "masked, squared", "masked, absolute"]
    assert [len(sources) for sources in methods.values()] == [1, 2, 1, 1, 1, 1, 1]
    assert [Path(s.folder).name for s in methods["seeds"]] == ["second", "third"]
    assert isinstance(methods["other"][0], ForeignMaps) and isinstance(methods["bright"][0], ImageScore)
    # The others have the configured score, and are re-scored only where asked for.
    assert methods["masked"][0].score == methods["one"][0].score == SCORE
    assert [methods[f"masked, {n}"][0].score for n in ("squared", "absolute")] == [
        "squared_residual",
        "absolute_residual",
    ]
    assert all(str(methods[f"masked, {n}"][0].folder) == folders["main"] for n in ("squared", "absolute"))


def test_further_seeds_of_the_main_method(folders):
    methods = gather(folders["main"], main_name="ours", comparisons={"ours": [folders["second"]]})
    assert list(methods) == ["ours"]
    assert [s.settings["seed"] for s in methods["ours"]] == [0, 1]


def test_one_folder_of_maps_has_the_name_of_its_key(folders):
    assert list(gather(folders["main"], maps_dir=folders["foreign"])) == ["masked", "maps_dir"]


@pytest.mark.parametrize("others", [{"comparisons": {"one": "second"}}, {"maps_dir": "foreign"}])
def test_main_method_without_results_is_left_out_when_there_are_others(folders, others, caplog):
    named = {k: folders[v] if isinstance(v, str) else {n: folders[f] for n, f in v.items()} for k, v in others.items()}
    with caplog.at_level(logging.WARNING):
        methods = gather(
            folders["empty"], scores={"squared": squared_residual}, image_scores={"bright": BRIGHT}, **named
        )
    assert list(methods) == [next(iter(named.get("comparisons", {"maps_dir": 0}))), "bright"]
    assert "holds no results: only the other methods are judged" in caplog.text


def test_seeds_of_a_main_method_that_lie_elsewhere_are_scored(folders):
    """The main folder is empty, but further seeds stand under its name."""
    methods = gather(
        folders["empty"], comparisons={"masked": [folders["second"]]}, scores={"squared": squared_residual}
    )
    assert list(methods) == ["masked", "masked, squared"]
    assert isinstance(methods["masked, squared"][0], StoredResults)
    assert str(methods["masked, squared"][0].folder) == folders["second"]


def test_nothing_but_the_image_needs_no_excuse(folders):
    """A score of the image is always there, so that a wrong output_dir must not go unnoticed."""
    with pytest.raises(FileNotFoundError, match="empty' holds no results of an inference"):
        gather(folders["empty"], image_scores={"bright": BRIGHT})
    with pytest.raises(FileNotFoundError, match="nowhere' holds no results"):
        gather(folders["main"], comparisons={"one": "nowhere"})


@pytest.mark.parametrize("kind", ["maps_dir", "image_scores"])
@pytest.mark.parametrize("name", ["masked", "one"])
def test_two_methods_of_one_name(folders, kind, name):
    other = folders["foreign"] if kind == "maps_dir" else BRIGHT
    with pytest.raises(ValueError, match=f"several methods are named '{name}'"):
        gather(folders["main"], comparisons={"one": folders["second"]}, **{kind: {name: other}})


def test_comparison_without_a_folder(folders):
    with pytest.raises(ValueError, match="comparisons: 'none' names no folder"):
        gather(folders["main"], comparisons={"none": []})


def test_configured_scores_give_finite_maps(tmp_path):
    """Every score of ``scores.json`` of one subject, by its name."""
    study = Study(tmp_path, [make_body("a", 0, orientation="AIR")])
    main = study.results("main", study.maps(0))
    from volume_files import configured

    settings = study.settings(main)
    methods = configured("methods", "evaluation", "scores", **settings)
    subject = study.get("reader", main)(study.get("datalist", main)[0])
    assert len(methods) == 2 + 7
    maps = {name: sources[0].read(subject).anomaly_map for name, sources in methods.items()}
    for name, anomaly in maps.items():
        assert anomaly.shape == (24, 20, 6) and anomaly.dtype == np.float32, name
        assert np.isfinite(anomaly).all() and (anomaly >= 0).all() and anomaly.any(), name
    assert len({anomaly.tobytes() for anomaly in maps.values()}) == len(maps)
