from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from report.fake_summary import (
    HOSTILE,
    METHODS,
    METRICS,
    NO_RECONSTRUCTION,
    ONE_CLASS,
    fake_panels,
    fake_slices,
    fake_summary,
)

from scripts.report import write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page that was closed where it was opened: tags, attributes, and the text of every field."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def written(path, summary, rows=(), panels=()) -> str:
    write_report(path / "report.html", summary, rows, panels)
    assert [file.name for file in path.iterdir()] == ["report.html"]
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    return written(tmp_path_factory.mktemp("report"), fake_summary(), fake_slices(), fake_panels())


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_nothing_is_loaded(source, page):
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", source)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    pictures = page.values("src")
    # Three curves, bars, a scatter a method, two histograms, six panels.
    assert len(pictures) == 3 + 1 + 5 + 2 + 6
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", picture) for picture in pictures)


def test_names_are_escaped(source, page):
    assert HOSTILE not in source
    assert page.text.count(HOSTILE) == 1 + 6
    assert "<histogram>" not in source
    assert "<histogram>" in page.text


def test_every_metric_and_method_appears(page):
    for title in METHODS.values():
        # Methods, results, sensitivity, thresholds at least.
        assert page.cells.count(title) >= 4
    for title, group, _ in METRICS.values():
        assert any(cell.startswith(title) for cell in page.cells)
        assert group in page.cells
        assert f"What {title} is & means." in page.text


def test_reasons_are_told_twice(source, page):
    for reason in (ONE_CLASS, NO_RECONSTRUCTION):
        assert reason in page.text
        assert f'title="{html.escape(reason)}"' in source
    # AUROC of patients in two tables, and the residual of the method without one.
    assert sum(cell.startswith("not defined") for cell in page.cells) == 5 + 4 + 1 + 5


def test_no_cell_shows_python(page):
    assert len(page.cells) > 150
    for cell in page.cells:
        assert not re.search(r"\b(nan|None|inf)\b|\[\]|\{\}", cell), cell
        assert cell.strip()


def test_links_lead_somewhere(page):
    targets = page.values("id")
    assert len(targets) == len(set(targets))
    links = page.values("href")
    assert {link[1:] for link in links if link[0] == "#"} <= set(targets)
    assert all(link[0] == "#" for link in links)


def test_pictures_and_tables_are_described(page):
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table") == 7
    assert tags.count("h1") == 1


def test_what_stands_first(page):
    assert "This is research software, not a medical device." in page.text
    order = [page.text.index(text) for text in ("not a medical device", "Every patient has a lesion; ", "What was")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"title": "T", "methods": {"a": {}}, "metrics": {"m": {}}, "table": {}},
        {"table": {"a": {"m": {"value": None}}, "b": {"n": {"value": 0.5}}}},
        {"methods": {"a": {}}, "curves": {"a": {"froc": {"false_positives": [], "sensitivity": [None]}}, "b": None}},
        {"lesion_size": {"classes": ["x"], "sensitivity": {}}, "score_histograms": {"s": {"edges": [0, 1]}}},
        {"methods": {"a": {}}, "thresholds": {"a": {}}, "differences": {"a": {}}, "data": {"slices": None}},
        {"methods": {"a": {}}, "lesion_size": {"classes": ["x", "y"], "sensitivity": {"a": [0.5]}}},
        {"unheard": 1, "data": {"new_key": 3}, "notes": None, "versions": None, "settings": None},
    ],
)
def test_missing_parts_are_said(tmp_path, summary):
    page = Page(written(tmp_path, summary))
    assert "not available" in page.text
    for cell in page.cells:
        assert not re.search(r"\b(nan|None)\b", cell)
    if summary.get("table"):
        assert "no reason was given" in page.text


def test_names_that_are_no_text(tmp_path):
    assert "subject \\udcff" in written(tmp_path, {"notes": ["subject \udcff"]})


def test_the_same_twice(tmp_path):
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        pages.append(written(tmp_path / name, fake_summary(), fake_slices(20), fake_panels()[:1]))
    assert pages[0] == pages[1]


def test_an_error_leaves_the_old_report(tmp_path, monkeypatch):
    before = written(tmp_path, {"title": "old"})
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_report(tmp_path / "report.html", {"title": "new"}, [], [])
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == before
