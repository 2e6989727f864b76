"""Small HTML tables for the end of a notebook's cell; every word in them is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from mlloop.core.formatting import number


def table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], foot: str = "") -> str:
    """A table of texts; every word in it is escaped."""
    head = Markup("").join(Markup("<th style='text-align:left'>{}</th>").format(name) for name in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td style='text-align:left'>{}</td>").format(_text(cell)) for cell in row)
        )
        for row in rows
    )
    title = Markup("<p><strong>{}</strong></p>").format(heading) if heading else Markup("")
    more = Markup("<p>{}</p>").format(foot) if foot else Markup("")
    return str(title + Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body) + more)


def facts(heading: str, values: Mapping[str, Any]) -> str:
    """Names and values, one a row."""
    return table(heading, ["name", "value"], [(name, _plain(value)) for name, value in values.items()])


def _text(value: Any) -> Markup:
    return escape(number(value) if isinstance(value, (int, float)) else "" if value is None else str(value))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            ", ".join(map(str, value))
            if any(isinstance(part, Mapping) for part in value.values())
            else ", ".join(f"{name}: {part}" for name, part in value.items())
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return repr(value) if isinstance(value, (bool, type(None), str)) else str(value)
