"""A page is one file that loads nothing, shows all text as text, and is well formed."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nearfar.errors import ArgumentError
from nearfar.report import charts, figures
from nearfar.report.page import Captioned, Cell, PageTable, Section, page

EVIL = "<script>alert(1)</script> & \"quoted\" 'text' <!-- <b>"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Tags with attributes, text outside of scripts and styles, contents of scripts; checks nesting."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.scripts, self._open = [], [], [], []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        elif not self._open or self._open[-1] != "style":
            self.text.append(data)


def figure(name=EVIL):
    return Captioned(
        charts.row_map([[0, 1], [1, 0]], [name, "b"], [name, "two"]), f"title {name}", f"caption {name}"
    )


@pytest.fixture(scope="module")
def source():
    table = PageTable(("name", EVIL), [[Cell(EVIL), Cell("1.5", "number")], [Cell("b"), Cell("2", "bad")]])
    return page(
        EVIL, [Section(EVIL, f"one {EVIL}\n\ntwo", table), Section("Figures", "", [figure()])], f"sub {EVIL}"
    )


def test_text_is_shown_as_it_was_given(source):
    outline = Outline(source)
    text = " ".join(outline.text)
    for place in ("one ", "sub ", "title ", "caption "):
        assert place + EVIL in text
    assert outline.text.count(EVIL) >= 5  # title, h1, navigation, h2, head and cell of the table
    assert not any("alert(1)" in script for script in outline.scripts if not script.startswith("{"))


def test_no_markup_of_the_user_becomes_a_tag(source):
    tags = [tag for tag, _ in Outline(source).tags]
    assert tags.count("b") == 0
    plain = page(
        "t",
        [
            Section("a", "one\n\ntwo", PageTable(("x", "y"), [[Cell("")] * 2] * 2)),
            Section("f", "", [figure("a")]),
        ],
        "s",
    )
    assert tags == [tag for tag, _ in Outline(plain).tags]


def test_nothing_is_loaded_from_anywhere(source):
    outline = Outline(source)
    for tag, attributes in outline.tags:
        assert not {"src", "srcset", "data", "action", "poster", "background"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
    styles = "".join(re.findall(r"<style>(.*?)</style>", source, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles


def test_the_browser_is_told_to_load_nothing(source):
    (policy,) = [a["content"] for _, a in Outline(source).tags if a.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert not re.search(r"https?:|\*|'self'", policy)


def test_no_button_uploads_the_data(source):
    own = Outline(source).scripts[-1]
    assert "showSendToCloud: false" in own
    assert 'plotlyServerURL: ""' in own
    assert "displaylogo: false" in own


def test_figures_are_whole_json_and_plotly_is_there_once(source):
    scripts = [content for content in Outline(source).scripts if content.startswith("{")]
    assert len(scripts) == 1
    drawn = json.loads(scripts[0])
    assert html.unescape(drawn["data"][0]["text"][0]).startswith("<script>alert(1)")
    assert source.count("plotly.js v") == 1


def test_a_page_without_figures_carries_no_script():
    bare = page("t", [Section("s", "text")])
    assert len(bare) < 20_000
    assert Outline(bare).scripts == []


def test_sections_can_be_reached_and_tables_have_heads(source):
    outline = Outline(source)
    targets = {a["id"] for _, a in outline.tags if "id" in a}
    links = [a["href"][1:] for tag, a in outline.tags if tag == "a"]
    assert links == ["section-1", "section-2"]
    assert set(links) <= targets
    assert [a["scope"] for tag, a in outline.tags if tag == "th"] == ["col", "col"]


def test_a_row_that_does_not_fit_its_table_is_an_error():
    with pytest.raises(ArgumentError, match="row 2 has 1 cells for 2 columns"):
        PageTable(("a", "b"), [[Cell("1"), Cell("2")], [Cell("1")]])


def test_light_and_dark(source):
    assert "prefers-color-scheme: dark" in source
    shown = figures.singular_spectrum({"a": np.array([2.0, 1.0])}).to_plotly_json()["layout"]
    assert "color" not in shown["font"]  # the page sets it
