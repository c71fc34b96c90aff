"""The page: inert against hostile text, whole without a network, readable as a document."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from medfm.evaluation import figures, report
from medfm.evaluation.report import Section, Tile, write_report
from medfm.types import RESEARCH_USE

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onload=\"alert(2)"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Every tag with its attributes, and whether the tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def figure(title: str = ""):
    drawn = figures.compare_arms([("a" + title, 0.8, 0.7, 0.9), ("b", 0.6, 0.5, 0.7)])
    return drawn


def written(tmp_path, *sections: Section, **arguments) -> tuple[str, Page]:
    path = write_report(tmp_path / "report.html", "A run", "of a test", sections, **arguments)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_hostile_text_is_words_wherever_it_stands(tmp_path):
    section = Section(
        title=HOSTILE,
        text=f"{HOSTILE}\n\n- {HOSTILE}\n\n**{HOSTILE}** and `{HOSTILE}`",
        table=([HOSTILE], [[HOSTILE]]),
        figures=[(figure(HOSTILE), HOSTILE, HOSTILE)],
        code=HOSTILE,
        code_title=HOSTILE,
        note=HOSTILE,
    )
    path = write_report(
        tmp_path / "r.html", HOSTILE, HOSTILE, [section] * 3, [HOSTILE], HOSTILE, tiles=[Tile(*[HOSTILE] * 3)]
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "form", "img", "base"}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert text.count("&lt;script&gt;") >= 10


def test_nothing_is_fetched(tmp_path):
    _, page = written(
        tmp_path, Section("One", figures=[(figure(), "two arms", "")]), Section("Two"), Section("Three")
    )
    for tag, attrs in page.tags:
        assert tag not in ("link", "script")
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            if attrs.get(name):
                assert attrs[name].startswith(("#", "data:")), (tag, attrs[name])
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "script" not in policy


def test_styles_fetch_nothing_either(tmp_path):
    text, _ = written(tmp_path, Section("One", figures=[(figure(), "", "")]))
    assert "@import" not in text
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", text))


def test_contents_lead_to_chapters_and_only_to_them(tmp_path):
    _, page = written(
        tmp_path, Section("One"), Section("Part of one", level=3), Section("Two"), Section("Three")
    )
    links = [a["href"][1:] for t, a in page.tags if t == "a"]
    ids = [a.get("id") for t, a in page.tags if t == "section"]
    assert links == [ids[0], ids[2], ids[3]]
    assert sum(t == "h3" for t, _ in page.tags) == 1


def test_research_use_is_said(tmp_path):
    text, _ = written(tmp_path)
    assert text.count(RESEARCH_USE) == 2


def test_ids_are_unique_over_equal_figures_and_their_references_hold(tmp_path):
    shown = [(figure(), "a", ""), (figure(), "b", "")]
    text, page = written(tmp_path, Section("One", figures=shown), Section("Two", figures=shown))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    references = re.findall(r"url\(#([^)]+)\)", text) + [
        a["xlink:href"][1:] for _, a in page.tags if a.get("xlink:href")
    ]
    assert references and set(references) <= set(ids)


def test_figures_speak_to_people_who_cannot_see_them(tmp_path):
    _, page = written(tmp_path, Section("One", figures=[(figure(), "two arms & their intervals", "")]))
    svg = next(a for t, a in page.tags if t == "svg")
    assert svg["role"] == "img" and svg["aria-label"] == "two arms & their intervals"


def test_a_heavy_figure_becomes_a_bitmap(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "SVG_LIMIT", 10)
    _, page = written(tmp_path, Section("One", figures=[(figure(), "two arms", "")]))
    image = next(a for t, a in page.tags if t == "img")
    assert image["alt"] == "two arms" and image["src"].startswith("data:image/png;base64,iVBORw0KGgo")


def test_cells_numbers_dashes_and_sides(tmp_path):
    table = (["name", "n", "auroc"], [["a", 1200, 0.81234], ["b", None, float("nan")]])
    text, page = written(tmp_path, Section("One", table=table))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert cells == ["a", "1,200", "0.812", "b", "–", "–"]
    right = [a.get("class") == "number" for t, a in page.tags if t == "td"]
    assert right == [False, True, True] * 2


def test_text_becomes_paragraphs_lists_bold_and_code(tmp_path):
    text, _ = written(
        tmp_path, Section("One", text="first\nline\n\n- one\n- **two**\n\nuse `medfm hub list`")
    )
    assert "<p>first line</p>" in text
    assert "<ul><li>one</li><li><strong>two</strong></li></ul>" in text
    assert "<code>medfm hub list</code>" in text


def test_an_interrupted_report_leaves_the_last_one(tmp_path):
    path = write_report(tmp_path / "report.html", "first", "", [])
    with pytest.raises(AttributeError):
        write_report(path, "second", "", [Section("broken", figures=[(None, "", "")])])
    assert "<title>first</title>" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_same_input_same_page(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4))
    pages = []
    for name in ("a", "b"):
        shown = [(figures.embedding_map(x, np.arange(30) % 2), "map", "")]
        path = write_report(tmp_path / f"{name}.html", "t", "", [Section("One", figures=shown)])
        pages.append(path.read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
