"""Regular expressions of RE2, which DuckDB has, as Java's, which Spark has: the same matches, or a refusal.

What the two read differently is written out (``\\s``, ``.``, ``$``, ``\\b``, ``[[:alpha:]]``, ``&&``); what only one of
them has is refused with its name.
"""

import re
import warnings

SPACE = r"\t\n\f\r "
EDGE = r"(?:(?<=\w)(?!\w)|(?<!\w)(?=\w))"
NO_EDGE = r"(?:(?<=\w)(?=\w)|(?<!\w)(?!\w))"
POSIX = {
    "alnum": r"\p{Alnum}", "alpha": r"\p{Alpha}", "ascii": r"\p{ASCII}", "blank": r"\p{Blank}", "cntrl": r"\p{Cntrl}",
    "digit": r"\p{Digit}", "graph": r"\p{Graph}", "lower": r"\p{Lower}", "print": r"\p{Print}", "punct": r"\p{Punct}",
    "space": r"\t\n\x0B\f\r ", "upper": r"\p{Upper}", "word": r"\w", "xdigit": r"\p{XDigit}",
}  # fmt: skip
_REPEAT = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??([*+?]|\{\d+(?:,\d*)?\})?")
_GROUP = re.compile(r"\((?:\?(?:P?<(?P<name>\w+)>|(?P<flags>[a-zA-Z-]*)(?P<end>[:)])|(?P<other>.)))?")
_CODE = re.compile(r"x\{(?P<long>[0-9A-Fa-f]{1,6})\}|x(?P<short>[0-9A-Fa-f]{2})")
_PROPERTY = re.compile(r"(?P<kind>[pP])(?:\{(?P<not>\^?)(?P<long>\w+)\}|(?P<short>[A-Z]))")


class Untranslatable(ValueError):
    """What of a pattern has no counterpart."""


def as_java(pattern: str) -> str:
    """A pattern of RE2 as one of Java that matches the same.

    Raises
    ------
    Untranslatable
        The pattern is none of RE2, or holds what is not known to match the same in Java.
    """
    at, parts = 0, []
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            text, at = _escape(pattern, at + 1, within=False)
        elif sign == "[":
            text, at = _class(pattern, at + 1)
        elif sign == "(":
            text, at = _group(pattern, at)
        elif repeat := _REPEAT.match(pattern, at):
            if repeat[1]:
                raise Untranslatable(f"{repeat[0]!r} repeats a repetition")
            text, at = repeat[0], repeat.end()
        else:
            text, at = {".": r"[^\n]", "$": r"\z", "{": r"\{", "}": r"\}", "]": r"\]"}.get(sign, sign), at + 1
        parts.append(text)
    return "".join(parts)


def replacement_as_java(replacement: str) -> str:
    """What is put in the place of a match: groups are ``\\1`` in RE2 and ``$1`` in Java."""
    parts: list[str] = []
    for matches in re.finditer(r"\\(?P<group>\d)|\\(?P<escaped>.?)|(?P<plain>[^\\])", replacement, re.DOTALL):
        if matches["group"]:
            parts.append("$" + matches["group"])
            continue
        if matches["escaped"] not in (None, "\\"):
            raise Untranslatable(f"{matches[0]!r} in the replacement is neither a group nor a backslash")
        sign = matches["plain"] or "\\"
        after_group = parts and re.fullmatch(r"\$\d", parts[-1]) and sign.isdigit()
        parts.append("\\" + sign if sign in "\\$" or after_group else sign)
    return "".join(parts)


def may_match_nothing(pattern: str) -> bool:
    """Whether a pattern matches an empty text somewhere: the engines then disagree on how often."""
    plain = re.sub(r"\[:\^?\w+:\]|\\[pP](?:\{\^?\w+\}|[A-Z])|\\x\{\w+\}", "a", pattern).replace(r"\z", r"\Z")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _least_width(plain) == 0
        except re.error as error:
            raise Untranslatable(str(error)) from error


def _least_width(pattern: str) -> int:
    from re import _parser  # type: ignore[attr-defined]

    return int(_parser.parse(pattern).getwidth()[0])


def _escape(pattern: str, at: int, within: bool) -> tuple[str, int]:
    """What stands after a backslash at `at`, inside or outside a class of characters."""
    if at >= len(pattern):
        raise Untranslatable("it ends with a backslash")
    sign = pattern[at]
    if match := _CODE.match(pattern, at):
        return f"\\x{{{match['long'] or match['short']}}}", match.end()
    if match := _PROPERTY.match(pattern, at):
        return _property(match), match.end()
    plain = {"s": SPACE if within else f"[{SPACE}]", "S": f"[^{SPACE}]", "v": r"\x0B"}
    edges = {} if within else {"b": EDGE, "B": NO_EDGE, "A": r"\A", "z": r"\z"}
    if sign in plain or sign in edges:
        return (plain | edges)[sign], at + 1
    if sign in "dDwWafnrt" or not sign.isalnum():
        return "\\" + sign if sign.isascii() else sign, at + 1
    raise Untranslatable(f"\\{sign} is not known to both engines")


def _property(match: re.Match) -> str:
    name = match["long"] or match["short"]
    is_not = (match["kind"] == "P") != bool(match["not"])
    script = "" if len(name) <= 2 else "Is"
    return f"\\{'P' if is_not else 'p'}{{{script}{name}}}"


def _group(pattern: str, at: int) -> tuple[str, int]:
    match = _GROUP.match(pattern, at)
    if match is None or match["other"]:
        raise Untranslatable(f"{pattern[at : at + 4]!r}: RE2 has no look-ahead, look-behind or atomic group")
    if match["name"]:
        return f"(?<{match['name']}>", match.end()
    if match["flags"] is None:
        return "(", match.end()
    if match["flags"] not in ("", "i"):
        raise Untranslatable(f"the flags {match['flags']!r} are not translated (only i is)")
    return f"(?{'iu' if match['flags'] else ''}{match['end']}", match.end()


def _posix(match: re.Match) -> str:
    text = POSIX.get(match[2], "")
    if not text or (match[1] and not text.startswith(("\\p", "\\w"))):
        raise Untranslatable(f"{match[0]!r} is not translated")
    return {"\\p": "\\P", "\\w": "\\W"}[text[:2]] + text[2:] if match[1] else text


def _class(pattern: str, at: int) -> tuple[str, int]:
    """A class of characters from behind its bracket on: Java would nest brackets and take && as an intersection."""
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[str] = []
    while at < len(pattern) and (pattern[at] != "]" or not parts):
        sign = pattern[at]
        posix = re.compile(r"\[:(\^?)(\w+):\]").match(pattern, at)
        if posix:
            text, at = _posix(posix), posix.end()
        elif sign == "\\":
            text, at = _escape(pattern, at + 1, within=True)
            if negated and text.startswith("[^"):
                raise Untranslatable(r"\S inside a negated class is not translated")
        else:
            text, at = ("\\" + sign if sign in "[]&^~#" else sign), at + 1
        parts.append(text)
    if at >= len(pattern):
        raise Untranslatable("a bracket is not closed")
    return f"[{'^' * negated}{''.join(parts)}]", at + 1
