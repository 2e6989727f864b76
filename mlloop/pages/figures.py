"""A chart of a notebook inside a page: SVG that cannot run, fetch or break out, in the colours of the page.

Only drawn shapes and text pass, each with the attributes on a list; everything else is dropped. What is not a drawing that
passes whole is embedded as a picture instead (`notebook_html.picture`).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from mlloop.core import charts, formatting

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
SHAPES = {
    "svg",
    "g",
    "path",
    "rect",
    "circle",
    "ellipse",
    "line",
    "polyline",
    "polygon",
    "text",
    "tspan",
    "use",
    "defs",
}
SHAPES |= {"clipPath", "title", "image"}
PLACES = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "width", "height", "d", "points", "transform"}
PLACES |= {"viewBox", "clipPathUnits", "preserveAspectRatio"}
LOOKS = {"fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity"}
LOOKS |= {"stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "text-anchor", "font"}
LOOKS |= {"font-size", "font-weight", "font-style", "dominant-baseline"}
SAFE = re.compile(r"[\w\s#.,%+'\"()-]*")
OWN_LINK = re.compile(r"#[\w.:-]+")
OWN_URL = re.compile(r"url\(#([\w.:-]+)\)")
PIXELS = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
COLOURS = {  # of `visualization`, as the page's style has them for light and dark
    "#000000": "ink", "#6b6b6b": "soft", "#d9d9d9": "chart-light", "#0072b2": "chart-blue", "#e69f00": "chart-orange",
    "#009e73": "chart-green", "#d55e00": "chart-red", "#56b4e9": "chart-sky", "#f0e442": "chart-yellow",
    "#cc79a7": "chart-pink", "#8a5f00": "chart-brown",
}  # fmt: skip
MOST_BYTES = 600_000


def figure(svg: str, metadata: Mapping[str, Any], described: str) -> Markup:
    """A chart for wide and for narrow pages with its numbers folded below; empty where the SVG holds what may not pass.

    Parameters
    ----------
    metadata : mapping
        Of the notebook's output, see `charts.Drawing.metadata`.
    described : str
        What the chart shows, for those who do not see it.
    """
    narrow = metadata.get("narrow")
    wide = inline(svg, described)
    small = inline(narrow, described) if isinstance(narrow, str) and narrow else Markup()
    if not wide:
        return Markup()
    drawn = (
        Markup('<div class="on-wide">{}</div><div class="on-narrow">{}</div>').format(wide, small) if small else wide
    )
    tables = Markup("").join(_table(table) for table in _tables(metadata.get("numbers")))
    folded = (
        Markup('<details class="numbers"><summary>The numbers<span class="unseen"> of this chart: {}</span></summary>{}</details>')
        .format(described, tables) if tables else Markup()
    )  # fmt: skip
    return Markup('<figure class="drawn">{}{}</figure>').format(drawn, folded)


def of_drawing(drawn: charts.Drawing, described: str) -> Markup:
    """The same of a figure that this process has drawn."""
    return figure(drawn.wide, drawn.metadata(), described)


def inline(svg: str, described: str) -> Markup:
    """SVG as a part of the page; empty where it is no SVG, too large, or refers to anything outside itself."""
    if len(svg) > MOST_BYTES or "<!ENTITY" in svg:
        return Markup()
    try:
        root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>\[]*>", "", svg))
    except ElementTree.ParseError:
        return Markup()
    if root.tag != f"{SVG}svg" or "viewBox" not in root.attrib:
        return Markup()
    prefix = "c" + hashlib.sha256(svg.encode()).hexdigest()[:10]
    used = set(re.findall(r"(?:href=\"|url\()#([\w.:-]+)", svg))
    for element in root.iter():
        if element.attrib.get("id", "") not in used and not element.attrib.get("id", "").startswith(charts.MARK):
            element.attrib.pop("id", None)
    kept = _kept(root, prefix, 0)
    if kept is None:
        return Markup()
    for name in ("width", "height"):
        kept.attrib.pop(name, None)
    _, _, width, _ = ([float(part) for part in re.findall(r"-?[\d.]+", root.attrib["viewBox"])] + [0.0] * 4)[:4]
    kept.attrib |= {"role": "img", "aria-label": described, "style": f"max-width: {width * 1.45 / 16:.1f}rem"}
    return Markup(ElementTree.tostring(kept, encoding="unicode"))


def _kept(element: ElementTree.Element, prefix: str, depth: int) -> ElementTree.Element | None:
    """The element with what may pass of it and of what is in it; None where it may not."""
    tag = element.tag.removeprefix(SVG) if isinstance(element.tag, str) else ""
    if tag not in SHAPES or depth > 30:
        return None
    kept = ElementTree.Element(tag, _attributes(tag, element.attrib, prefix))
    if tag == "image" and "href" not in kept.attrib:
        return None
    if tag in ("text", "tspan", "title"):
        kept.text = element.text
    for child in element:
        if (inner := _kept(child, prefix, depth + 1)) is not None:
            if tag in ("text", "tspan"):
                inner.tail = child.tail
            kept.append(inner)
    _title(kept, element.attrib.get("id", ""))
    return kept


def _attributes(tag: str, attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    kept: dict[str, str] = {}
    styles: dict[str, str] = {}
    for name, value in attributes.items():
        if name == "id" and OWN_LINK.fullmatch(f"#{value}"):
            kept["id"] = f"{prefix}-{value}"
        elif name == "clip-path" and (own := OWN_URL.fullmatch(value)):
            kept[name] = f"url(#{prefix}-{own[1]})"
        elif name in ("href", LINK) and OWN_LINK.fullmatch(value):
            kept["href"] = f"#{prefix}-{value[1:]}"
        elif name in ("href", LINK) and tag == "image" and PIXELS.fullmatch(value):
            kept["href"] = value
        elif name in PLACES and SAFE.fullmatch(value):
            kept[name] = value
        elif name in LOOKS:
            styles[name] = value
        elif name == "style":
            styles |= dict(re.findall(r"\s*([\w-]+)\s*:\s*([^;]*)", value))
    looks = {name: _colour(tag, name, value.strip()) for name, value in styles.items() if name in LOOKS}
    looks = {name: value for name, value in looks.items() if SAFE.fullmatch(value) and "url(" not in value}
    if looks:
        kept["style"] = "; ".join(f"{name}: {value}" for name, value in looks.items())
    return kept


def _colour(tag: str, name: str, value: str) -> str:
    """A colour of the palette as the page has it; white below a word is the page's ground."""
    if name not in ("fill", "stroke"):
        return value
    plain = value.lower()
    if plain == "#ffffff" and tag == "path" and name == "fill":
        return "var(--paper)"
    called = COLOURS.get(plain)
    if called is None:
        return value
    return f"var(--{called}-text)" if tag in ("text", "tspan") and called.startswith("chart") else f"var(--{called})"


def _title(kept: ElementTree.Element, gid: str) -> None:
    """Give a bar, or the points of a line, the words that `charts.name_marks` left in its name."""
    if not gid.startswith(charts.MARK):
        return
    try:
        texts = [str(text) for text in json.loads(gid.removeprefix(charts.MARK))]
    except ValueError:
        return
    points = list(kept.iter("use"))
    marks = points if len(points) == len(texts) else [kept] if len(texts) == 1 else []
    for mark, text in zip(marks, texts, strict=True):
        title = ElementTree.Element("title")
        title.text = text
        mark.insert(0, title)


def _tables(listed: Any) -> list[charts.Numbers]:
    """The numbers as they lie in an output's metadata; what is not of their form is left out."""
    tables = []
    for numbers in listed if isinstance(listed, list) else []:
        if (
            not isinstance(numbers, dict)
            or not isinstance(numbers.get("columns"), list)
            or not isinstance(numbers.get("rows"), list)
        ):
            continue
        rows = [row for row in numbers["rows"] if isinstance(row, list) and len(row) == len(numbers["columns"])]
        tables.append(charts.Numbers(str(numbers.get("title") or ""), [str(name) for name in numbers["columns"]], rows))
    return tables


def _table(numbers: charts.Numbers) -> Markup:
    cells = list(zip(*numbers.rows, strict=True)) or [() for _ in numbers.columns]
    is_number = [bool(cell) and all(v is None or isinstance(v, (int, float)) for v in cell) for cell in cells]
    head = _cells("th", zip(numbers.columns, is_number, strict=True), ' scope="col"')
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(_cells("td", zip(map(_text, row), is_number, strict=True))) for row in numbers.rows
    )
    return Markup(
        '<p class="soft small">{}</p><div class="scroll" tabindex="0" role="region" aria-label="Numbers: {}"><table>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(numbers.title, numbers.title, head, body)


def _cells(tag: str, texts: Iterable[tuple[str, bool]], more: str = "") -> Markup:
    return Markup("").join(
        Markup("<{}{}{}>{}</{}>").format(Markup(tag), Markup(more), _looks(text, is_number), text, Markup(tag))
        for text, is_number in texts
    )


def _looks(text: str, is_number: bool) -> Markup:
    """The class of a cell: numbers stand right, a short word or a date is not broken."""
    return Markup(' class="n"') if is_number else Markup(' class="keep"') if len(text) < 12 else Markup()


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return formatting.number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
