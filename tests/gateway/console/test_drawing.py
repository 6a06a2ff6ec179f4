"""Charts, differences and shown words: whatever goes in, well-formed markup and the same words come out."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from vlmguard.gateway.console import charts, diff, words

NUMBERS = st.floats(0, 1e9)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=80)


@given(st.lists(st.tuples(TEXT, NUMBERS), max_size=8), TEXT)
def test_charts_are_well_formed(items: list[tuple[str, float]], title: str) -> None:
    labels, values = [name for name, _ in items], [value for _, value in items]
    for chart in (
        charts.bars(items, title),
        charts.waterfall(dict(items), title),
        charts.stacked(labels, {"forward": values, "block": values}, title),
        charts.lines(labels, {"p50": values, "p95": [None] * len(values)}, title, "%"),
    ):
        assert ET.fromstring(chart).get("aria-label") == title


@given(NUMBERS)
def test_the_top_of_a_scale_is_at_or_above_what_is_drawn(value: float) -> None:
    assert charts._nice(value) >= value


def test_a_line_is_broken_where_there_is_no_value() -> None:
    chart = charts.lines(["a", "b", "c", "d"], {"p50": [1, 2, None, 4]}, "x")
    assert chart.count("<polyline") == 1
    assert chart.count("<circle") == 1


@given(TEXT, TEXT)
def test_both_texts_can_be_read_from_their_difference(before: str, after: str) -> None:
    runs = diff.words(before, after)
    assert runs is not None
    assert "".join(run.text for run in runs if run.kind != "new") == before
    assert "".join(run.text for run in runs if run.kind != "gone") == after


def test_texts_too_long_to_compare_are_not() -> None:
    assert diff.words("a " * 2000, "b " * 2000) is None


@given(st.text(max_size=80))
def test_shown_words_hold_no_markup_and_nothing_invisible(text: str) -> None:
    found = str(words.shown(text))
    ET.fromstring(f"<p>{found}</p>") if not any(
        "\ud800" <= letter <= "\udfff" or letter in "\ufffe\uffff" for letter in text
    ) else None
    assert not any(letter in found for letter in "\u202e\u200b\u2066\ufeff\x00\x1b\u00ad")


def test_long_words_are_cut_and_say_so() -> None:
    assert "5 more characters" in words.shown("x" * 25, 20)
