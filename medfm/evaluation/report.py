"""One self-contained HTML page: no script, no request, every word from outside escaped.

The page carries a Content-Security-Policy that forbids scripts and any fetch, so that a locked-down
browser, an e-mail attachment viewer and a careful reader all see the same thing. Figures are inline SVG, or
PNG as a data address when the SVG would be heavy."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm.types import RESEARCH_USE

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

SVG_LIMIT = 300_000  # bytes: above, a bitmap is smaller and scrolls more smoothly
PNG_DPI = 200

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]  # column names, rows


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in this order: text, table, code, figures, note.

    text: paragraphs separated by blank lines; ``- `` starts a list item, ``**bold**`` and ``` `code` ```
    work, everything else is taken as plain words. table: (columns, rows); a number column is set right,
    None is a dash. figures: (figure, alternative text for people who cannot see it, caption). code: a
    command to copy. level: 2 a chapter (in the table of contents), 3 a part of one."""

    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[tuple[Figure, str, str]] = ()
    code: str = ""
    code_title: str = ""
    note: str = ""
    level: int = 2


@dataclass(frozen=True)
class Tile:
    """A headline number: what it is, its value, and a line of context (the interval, the counts)."""

    label: str
    value: str
    detail: str = ""


@dataclass
class _Page:
    title: str
    subtitle: str
    notices: list[Any]
    tiles: Sequence[Tile]
    footer: str
    contents: list[tuple[str, str]] = field(default_factory=list)
    sections: list[dict[str, Any]] = field(default_factory=list)


def write_report(
    path: str | Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    notices: Sequence[str] = (),
    footer: str = "",
    *,
    tiles: Sequence[Tile] = (),
) -> Path:
    """Write the page and return its path. ``notices`` stand on top in a box (unknown patients, patient data
    inside).

    Written beside and renamed, so that an interrupted run leaves the last whole report.
    """
    path = Path(path)
    page = _Page(title, subtitle, [_inline(n) for n in notices], tiles, footer)
    for number, section in enumerate(sections, 1):
        anchor = f"s{number}"
        if section.level == 2:
            page.contents.append((anchor, section.title))
        page.sections.append(_section(section, anchor))
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(_render(page), encoding="utf-8")
    temporary.replace(path)
    return path


def _render(page: _Page) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("medfm.evaluation", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(page=page, research_use=RESEARCH_USE)


def _section(section: Section, anchor: str) -> dict[str, Any]:
    return {
        "anchor": anchor,
        "level": 3 if section.level > 2 else 2,
        "title": section.title,
        "text": _paragraphs(section.text),
        "table": _table(section.table) if section.table else None,
        "code": section.code,
        "code_title": section.code_title,
        "figures": [
            {
                "image": _image(figure, alt, f"{anchor}-{i}"),
                "caption": _inline(caption),
                "wide": _is_wide(figure),
            }
            for i, (figure, alt, caption) in enumerate(section.figures)
        ],
        "note": _inline(section.note),
    }


def _inline(text: str) -> Markup:
    """Escape first, then turn ``**bold**`` and `` `code` `` into tags: a tag in the text stays words."""
    from markupsafe import Markup

    safe = html.escape(text, quote=True)
    safe = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\*\*([^*\n]+)\*\*", r"<strong>\1</strong>", safe))


def _paragraphs(text: str) -> Markup:
    """Blank lines part paragraphs; lines that start with ``- `` are a list."""
    from markupsafe import Markup

    out = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        words = [line for line in lines if not line.startswith("- ")]
        items = [line[2:] for line in lines if line.startswith("- ")]
        if words:
            out.append(f"<p>{_inline(' '.join(words))}</p>")
        if items:
            out.append("<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in items) + "</ul>")
    return Markup("\n".join(out))


def _table(table: Table) -> dict[str, Any]:
    columns, rows = table
    texts = [[_cell(v) for v in row] for row in rows]
    numeric = [
        bool(texts) and all(_is_number(row[c]) for row in texts if c < len(row)) for c in range(len(columns))
    ]
    return {"columns": list(columns), "rows": texts, "numeric": numeric, "headed": any(columns)}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"–|[-+−]?[\d,.]+\s*%?(\s*[\[(][^\])]*[\])])?", text.strip()))


def _is_wide(figure: Figure) -> bool:
    """Wider or much taller than one column of the page bears."""
    return bool(figure.get_figwidth() > 5.6)


def _image(figure: Figure, alt: str, name: str) -> Markup:
    """Inline SVG with a title for screen readers; PNG where the SVG is heavy."""
    from markupsafe import Markup

    alt = html.escape(alt, quote=True)
    svg = _svg(figure, name)
    if len(svg) <= SVG_LIMIT:
        return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{alt}" ', 1))
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=PNG_DPI)
    data = base64.b64encode(out.getvalue()).decode()
    return Markup(f'<img alt="{alt}" src="data:image/png;base64,{data}">')


def _svg(figure: Figure, name: str) -> str:
    """The figure's ``<svg>`` element, its text as text, its ids unique to ``name`` on the page."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": True}):
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    ids = set(re.findall(r'\bid="([^"]+)"', svg))
    svg = re.sub(r'\bid="([^"]+)"', lambda m: f'id="{name}-{m[1]}"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{name}-{m[1]})" if m[1] in ids else m[0], svg)
    svg = re.sub(r'href="#([^"]+)"', lambda m: f'href="#{name}-{m[1]}"' if m[1] in ids else m[0], svg)
    width, height = (72 * side for side in figure.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}">'  # an HTML parser knows both namespaces already
    return re.sub(r"<svg[^>]*>", head, svg, count=1)
