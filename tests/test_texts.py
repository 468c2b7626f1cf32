from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.data.names import name_problem
from scripts.texts import plain_cell, printable, safe_cell

BOUNDED = settings(max_examples=200, deadline=None, derandomize=True)
ANY = st.text(st.characters(codec=None), max_size=30) | st.text("=+-@'0123456789.e \t", max_size=6)


@pytest.mark.parametrize("text", ["-1.5", "+2", "-1e-05", "-.5", "nan", "-inf", "S1", "a=b", "", 3, -2.5, None])
def test_numbers_and_plain_text_stay(text):
    assert safe_cell(text) == text


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@x", "\t=1", " =1", "'=1", "--1", "-1.5.2"])
def test_formulas_begin_with_an_apostrophe(text):
    assert safe_cell(text) == f"'{text}"


@BOUNDED
@given(ANY)
def test_cells_come_back(text):
    assert plain_cell(safe_cell(text)) == text


@BOUNDED
@given(ANY)
def test_printable(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


@BOUNDED
@given(ANY)
def test_a_name_without_problem_is_one_line_of_utf8_and_survives_csv(name):
    if name_problem(name):
        return
    assert len(name.encode()) <= 200 and len(name.splitlines()) == 1
    stream = io.StringIO()
    csv.writer(stream).writerow([safe_cell(name), 1])
    assert plain_cell(next(csv.reader([stream.getvalue().strip("\r\n")]))[0]) == name


@pytest.mark.parametrize(
    "name", ["scores.csv", "Settings.json", "evaluation", "search", "a\nb", "\udcff", "n" * 236, " ", "."]
)
def test_names_that_are_none(name):
    assert name_problem(name)


@pytest.mark.parametrize("name", ["$x^$", "a,b", "=1+1", "Müller 脳", "n" * 200, "a#b"])
def test_odd_names_that_are_some(name):
    assert name_problem(name) is None
