"""Cells of an executed notebook as HTML that cannot run, fetch or break out, whatever the data hold.

Text is escaped, HTML made by a library (a DataFrame's table) passes an allow-list, pictures are embedded as data, charts
as SVG of which only shapes and text are left.
Links, styles and scripts in an output are dropped; prose that was written in the notebook may link.
"""

import base64
import binascii
import html
import io
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

import nh3
from markupsafe import Markup, escape

from mlloop.core.records import JsonObject
from mlloop.pages import figures

TEXT_TAGS = {
    "p",
    "br",
    "hr",
    "em",
    "strong",
    "s",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "h2",
    "h3",
    "h4",
    "sub",
    "sup",
}
TABLE_TAGS = {"table", "thead", "tbody", "tfoot", "tr", "th", "td", "caption"}
PROSE_TAGS = TEXT_TAGS | TABLE_TAGS | {"a"}
OUTPUT_TAGS = TEXT_TAGS | TABLE_TAGS | {"b", "i", "span", "div", "dl", "dt", "dd", "details", "summary"}
SPANS = {"colspan", "rowspan"}
PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
NUMBER = re.compile(r"[-+−]?(\d[\d,_ ]*\.?\d*|\.\d+)(e[-+]?\d+)?\s?(%|[A-Za-z€$£µ/]{1,4})?|nan|inf|–", re.IGNORECASE)
COUNTS = {"rows", "n", "answers", "read", "kept", "rejected", "duplicates"}
UNITS = {"pct": "%", "s": "s", "ms": "ms", "eur": "EUR", "usd": "USD", "mb": "MB"}
UNIT = re.compile(rf"(\w+)_({'|'.join(UNITS)})")
MISSING = {"NaN", "NaT", "None", "<NA>"}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[@-_]")
BARE_REPR = re.compile(r"^<[\w.]+[^\n]*>$|^\[<[\w.]+ .*>\]$", re.DOTALL)
MOMENT = re.compile(r"\Adatetime\.datetime\((\d+), (\d+), (\d+), (\d+), (\d+)(?:, \d+)*\)\Z")
MAX_TEXT, MAX_ROWS = 20_000, 200


@dataclass(frozen=True)
class Block:
    """A piece of a page: `kind` is 'prose', 'output', 'error' or 'code'."""

    kind: str
    shown: Markup


def steps(blocks: Iterable[Block]) -> list[list[Block]]:
    """The blocks in pieces of a page: prose, and the output and code that it announces."""
    pieces: list[list[Block]] = []
    for block in blocks:
        if not pieces or (block.kind == "prose" and pieces[-1][-1].kind != "prose"):
            pieces.append([])
        pieces[-1].append(block)
    return pieces


def run_act(notebook: JsonObject, source: JsonObject | None = None) -> list[JsonObject]:
    """The cells of a notebook's Run act, without the parameters.

    Parameters
    ----------
    notebook : dict
        An executed notebook, whole or only its Run act.
    source : dict, optional
        The notebook as it is now: where its code is the one that ran, its prose is taken, so that
        a corrected sentence shows without running anything.
    """
    ran = _from_heading(notebook.get("cells", []))
    if source is None:
        return ran
    now = _from_heading(source.get("cells", []))
    codes = [c for c in ran if c.get("cell_type") == "code"]
    now_codes = [c for c in now if c.get("cell_type") == "code"]
    if not codes or [_text(c.get("source")) for c in codes] != [_text(c.get("source")) for c in now_codes]:
        return ran
    executed = iter(codes)
    return [next(executed) if cell.get("cell_type") == "code" else cell for cell in now]


def _from_heading(cells: list[JsonObject]) -> list[JsonObject]:
    starts = [
        i
        for i, c in enumerate(cells)
        if c.get("cell_type") == "markdown" and re.match(r"##\s+Run\b", _text(c.get("source")))
    ]
    hidden = {"parameters", "injected-parameters"}
    return [c for c in cells[starts[-1] if starts else 0 :] if not hidden & set(c.get("metadata", {}).get("tags", []))]


def _text(source: Any) -> str:
    return ("".join(map(str, source)) if isinstance(source, list) else str(source or "")).strip()


def title(notebook: JsonObject) -> str:
    """The notebook's first heading; '' where it has none."""
    for cell in notebook.get("cells", []):
        heading = re.match(r"#\s+(.+)", _text(cell.get("source"))) if cell.get("cell_type") == "markdown" else None
        if heading:
            return heading.group(1).strip()
    return ""


def blocks(cells: Iterable[JsonObject]) -> list[Block]:
    """Prose, outputs and code of `cells` in reading order; code that shows nothing joins the next that does.

    Prose that announces what its code then had no reason to show is left out with it; what opens the act stays.
    After a cell that raised there is nothing: what follows it did not run.
    """
    shown_blocks: list[Block] = []
    code: list[str] = []
    announced = ""
    read_cells = [cell for cell in cells if cell.get("cell_type") in ("markdown", "code")]
    for i, cell in enumerate(read_cells):
        if cell.get("cell_type") == "markdown":
            if i and _shows_nothing(read_cells[i + 1 :]):
                continue
            text = re.sub(r"\A##\s+Run\b[^\n]*\n?", "", _text(cell.get("source"))).strip()
            announced = text or announced
            shown_blocks += [Block("prose", prose(text))] if text else []
        elif cell.get("cell_type") == "code":
            code.append(re.sub(r"\A#\s*\|\s*pipeline[^\n]*\n?", "", _text(cell.get("source"))))
            shown = [block for result in cell.get("outputs", []) for block in output(result, plain_text(announced))]
            if shown:
                shown_blocks += shown + _code(code)
                code = []
            if any(block.kind == "error" for block in shown):
                break
    return shown_blocks + _code(code)


def _shows_nothing(after: list[JsonObject]) -> bool:
    """Whether the cells up to the next prose are code, and none of them shows anything."""
    codes = list(takewhile(lambda cell: cell.get("cell_type") == "code", after))
    return bool(codes) and not any(output(result) for cell in codes for result in cell.get("outputs", []))


def _code(cells: list[str]) -> list[Block]:
    text = "\n\n".join(cell for cell in cells if cell.strip())
    return [Block("code", escape(text))] if text else []


@cache
def _markdown():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")


def _tokens(text: str) -> str:
    parser = _markdown()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = {"h1": "h2", "h2": "h2", "h3": "h3"}.get(token.tag, "h4")
    return parser.renderer.render(tokens, parser.options, {})


def prose(text: str) -> Markup:
    """Markdown that was written in the notebook, as HTML; raw HTML in it is shown as text."""
    cleaned = nh3.clean(
        _tokens(text), tags=PROSE_TAGS, attributes={"a": {"href"}}, url_schemes={"http", "https", "mailto"}
    )
    return _with_tables(cleaned, "Table")


def plain_text(text: str, limit: int = 160) -> str:
    """The words of a piece of Markdown, cut at `limit` characters; for the description of a picture."""
    plain = words(nh3.clean(_tokens(text), tags=set()))
    return plain if len(plain) <= limit else plain[: limit - 1].rsplit(" ", 1)[0] + "…"


def words(shown: str) -> str:
    """The text of HTML, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


def stressed(notebook: JsonObject) -> str:
    """What the first Markdown output of the Run act stresses or has as its heading: its finding, or ''."""
    outputs = [
        result.get("data") or {}
        for cell in _from_heading(notebook.get("cells", []))
        for result in cell.get("outputs", [])
    ]
    markdown = next((_raw(data["text/markdown"]) for data in outputs if "text/markdown" in data), "")
    stress = re.search(r"<(strong|h[2-4])>(.+?)</\1>", _tokens(markdown), re.DOTALL) if markdown else None
    return words(stress.group(2)) if stress else ""


def output(content: JsonObject, about: str = "") -> list[Block]:
    """One output of a cell; `about` is what the prose before it says, and describes a picture."""
    kind = content.get("output_type")
    if kind == "error":
        return [Block("error", error(content))]
    if kind == "stream":
        return [Block("output", _pre(_text(content.get("text"))))] if content.get("name") == "stdout" else []
    data, metadata = content.get("data") or {}, content.get("metadata") or {}
    for form in ("image/svg+xml", "image/png", "image/jpeg"):
        if form in data and (shown := picture(form, data[form], metadata.get(form) or {}, about)):
            return [Block("output", shown)]
    if "text/html" in data and (shown := library_html(_raw(data["text/html"]), about)):
        return [Block("output", shown)]
    if "text/markdown" in data:
        cleaned = nh3.clean(_tokens(_raw(data["text/markdown"])), tags=OUTPUT_TAGS, attributes={})
        return [Block("output", _with_tables(cleaned, about))]
    text = MOMENT.sub(_iso, _raw(data.get("text/plain")))
    return [] if not text.strip() or BARE_REPR.match(text.strip()) else [Block("output", _pre(text))]


def _iso(match: re.Match) -> str:
    year, month, day, hour, minute = (int(part) for part in match.groups())
    return f"{year:04}-{month:02}-{day:02}" + (f" {hour:02}:{minute:02}" if hour or minute else "")


def _raw(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def raised(notebook: JsonObject) -> str:
    """The name and the message of the error in an executed notebook; '' where there is none."""
    outputs = [result for cell in notebook.get("cells", []) for result in cell.get("outputs", [])]
    return next((_named(result) for result in outputs if result.get("output_type") == "error"), "")


def _named(content: JsonObject) -> str:
    return ANSI.sub("", f"{content.get('ename', 'Error')}: {content.get('evalue', '')}")[:2000]


def error(content: JsonObject) -> Markup:
    """A cell's error: its name and message; the traceback folded."""
    trace = ANSI.sub("", "\n".join(map(str, content.get("traceback") or [])))
    folded = Markup("<details><summary>Traceback</summary>{}</details>").format(_pre(trace)) if trace else Markup()
    return Markup("<p><strong>{}</strong></p>{}").format(_named(content), folded)


def _pre(text: str) -> Markup:
    text = re.sub(r"[^\n]*\r(?!\n)", "", ANSI.sub("", text))
    cut = f"\n… {len(text) - MAX_TEXT:,} more characters" if len(text) > MAX_TEXT else ""
    return (
        Markup('<div class="scroll"><pre tabindex="0">{}{}</pre></div>').format(text[:MAX_TEXT], cut)
        if text.strip()
        else Markup()
    )


def picture(form: str, data: Any, metadata: JsonObject, about: str) -> Markup:
    """A picture as `<img>` with its data inside, a chart as SVG (see `figures`); empty where the data are not what `form` says."""
    if form == "image/svg+xml":
        if drawn := figures.figure(_raw(data), metadata, str(metadata.get("alt") or about or "Figure")):
            return drawn
        content, width, height = _raw(data).encode(), None, None
        if b"<svg" not in content:
            return Markup()
    else:
        try:
            content = base64.b64decode(_raw(data), validate=False)
        except (binascii.Error, ValueError):
            return Markup()
        if not content.startswith(PICTURES[form]):
            return Markup()
        form, content = _smaller(form, content)
        width, height = metadata.get("width"), metadata.get("height")
        if not (isinstance(width, int) and isinstance(height, int)):
            width, height = _size(form, content)
    size = Markup(' width="{}" height="{}"').format(width, height) if width and height else Markup()
    described = str(metadata.get("alt") or about or "Figure")
    return Markup(
        '<figure tabindex="0" role="group" aria-label="{}"><img src="data:{};base64,{}" alt="{}"{}></figure>'
    ).format(described, form, base64.b64encode(content).decode(), described, size)


def _size(form: str, content: bytes) -> tuple[int | None, int | None]:
    return struct.unpack(">II", content[16:24]) if form == "image/png" and len(content) >= 24 else (None, None)


def _smaller(form: str, content: bytes, enough: int = 60_000) -> tuple[str, bytes]:
    """A large picture with a palette of 128 colours, which a chart does not miss."""
    if len(content) <= enough:
        return form, content
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            reduced = image.convert("RGBA").quantize(128, method=Image.Quantize.FASTOCTREE)
            written = io.BytesIO()
            reduced.save(written, "PNG", optimize=True)
    except (OSError, ValueError, Image.DecompressionBombError):
        return form, content
    return ("image/png", written.getvalue()) if written.tell() < len(content) else (form, content)


def library_html(html: str, about: str = "") -> Markup:
    """HTML that a library made of data, reduced to tables and text; empty where nothing is left."""
    cleaned = nh3.clean(
        html,
        tags=OUTPUT_TAGS,
        attributes={"td": SPANS, "th": SPANS},
        clean_content_tags={"script", "style", "template"},
    )
    return _with_tables(cleaned, about) if cleaned.strip() else Markup()


def _with_tables(cleaned: str, about: str) -> Markup:
    """`cleaned` with its tables made readable; only for HTML that came out of the allow-list."""
    if "<table" not in cleaned:
        return Markup(cleaned)
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(cleaned, "html.parser")
    for table in soup.find_all("table"):
        _one_header_row(table)
        _cut(soup, table)
        _align(table)
        named = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": about or "Table"}
        table.wrap(soup.new_tag("div", attrs=named))
    return Markup(str(soup))


def _one_header_row(table) -> None:
    """Join the two header rows that pandas writes for an index with a name."""
    rows = table.thead.find_all("tr") if table.thead else []
    if len(rows) != 2:
        return
    above, below = (row.find_all("th") for row in rows)
    plain = not any(cell.attrs for cell in above + below) and len(above) == len(below)
    if plain and all(
        not (a.get_text(strip=True) and b.get_text(strip=True)) for a, b in zip(above, below, strict=True)
    ):
        for upper, lower in zip(above, below, strict=True):
            if not upper.get_text(strip=True):
                upper.replace_with(lower)
        rows[1].decompose()


def _cut(soup, table) -> None:
    rows = (table.tbody or table).find_all("tr")
    for row in rows[MAX_ROWS:]:
        row.decompose()
    note = f"The first {MAX_ROWS} of {len(rows):,} rows." if len(rows) > MAX_ROWS else "" if rows else "No rows."
    if note:
        caption = table.caption or soup.new_tag("caption")
        caption.append(note)
        table.insert(0, caption)


def _align(table) -> None:
    """Numbers to the right, by column counted from the right; headers get their scope."""
    body = [row.find_all("td") for row in (table.tbody or table).find_all("tr")]
    for cell in (cell for row in body for cell in row):
        if cell.get_text(strip=True) in MISSING:
            cell.string = "–"
    width = max((len(row) for row in body), default=0)
    for column in range(1, width + 1):
        cells = [row[-column] for row in body if len(row) >= column]
        texts = [cell.get_text(strip=True) for cell in cells]
        if max(map(len, texts), default=0) > 28:
            for cell in cells:
                cell["class"] = "wide"
        elif any(t not in ("", "–") for t in texts) and all(
            t == "" or (len(t) < 40 and NUMBER.fullmatch(t)) for t in texts
        ):
            head = [row.find_all("th") for row in (table.thead.find_all("tr") if table.thead else [])]
            for cell in cells + [row[-column] for row in head if len(row) >= column]:
                cell["class"] = "n"
            counts = any(row[-column].get_text(strip=True) in COUNTS for row in head if len(row) >= column)
            for cell in cells:
                if re.fullmatch(r"[-−]?\d{4,15}" if counts else r"[-−]?\d{5,15}", cell.get_text(strip=True)):
                    cell.string = f"{int(cell.get_text(strip=True).replace('−', '-')):,}"
    for cell in table.thead.find_all("th") if table.thead else []:
        if unit := UNIT.fullmatch(cell.get_text(strip=True)):
            cell.string = f"{unit[1].replace('_', ' ')} ({UNITS[unit[2]]})"
    for row in table.find_all("tr"):
        for cell in row.find_all("th"):
            cell["scope"] = "col" if cell.find_parent("thead") else "row"
