"""Passwords and tokens that stand in a statement: what is written of them elsewhere is stars.

A secret belongs into the environment, `${NAME}` in the statement. One that stands there literally is used, and is
shown on no page and kept in no product.
"""

import re
from collections.abc import Mapping

STARS = "***"
_NAMES = r"(?:[\w.-]*(?:token|secret|passw(?:or)?d|pwd|signature|api[_-]?key|access[_-]?key)[\w.-]*|sig|key)"
_HEADERS = re.compile(rf"(?i)authorization|cookie|.*[.]pem|{_NAMES}")
_FROM_ENVIRONMENT = re.compile(r"\$\{\w+\}")


def masked_url(url: str) -> str:
    """A URL without its password and without query values that are named like a secret; `${NAME}` stays."""
    url = re.sub(r"(//[^:/@\s]*):([^/\s]*)@", lambda match: f"{match[1]}:{_stars(match[2])}@", url)
    return re.sub(rf"(?i)([?&]{_NAMES}=)([^&#\s]+)", lambda match: match[1] + _stars(match[2]), url)


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers without the values of those that carry a secret; `${NAME}` stays."""
    return {name: _stars(value) if _HEADERS.fullmatch(name) else value for name, value in headers.items()}


def _stars(value: str) -> str:
    kept = _FROM_ENVIRONMENT.sub("", value).strip()
    return value if kept in ("", "Bearer", "Basic", "Token") else STARS
