"""Python source as a syntax tree, one thread at a time; YAML files, pipeline.yaml above all, as what they hold.

CPython below 3.11.8 and 3.12.1 counts the depth of a tree in one place for all threads (python/cpython#106905): two
that parse at once fail now and then with "AST constructor recursion depth mismatch", and a run works on two stages.
"""

import ast
import threading
from pathlib import Path
from typing import Any

import yaml

from mlloop.core.errors import SettingsError
from mlloop.core.records import JsonObject

_one_at_a_time = threading.Lock()


def tree(source: str) -> ast.Module:
    """The tree of `source`, as `ast.parse` gives it.

    Raises
    ------
    SyntaxError
    """
    with _one_at_a_time:
        return ast.parse(source)


MOST_VALUES, MOST_DEPTH = 200_000, 100


def is_bounded(content: Any) -> bool:
    """Whether what a YAML file holds stays small and flat when each alias is replaced by what it stands for."""
    waiting, to_visit = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        to_visit += 1
        if to_visit > MOST_VALUES or depth > MOST_DEPTH:
            return False
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(child, depth + 1) for child in inner]
    return True


def tasks(root: Path) -> list[JsonObject]:
    """The stages that the pipeline.yaml in `root` declares, in its order, as it writes them.

    Raises
    ------
    SettingsError
        It is not there, is no YAML, or holds something else than a list of stages.
    """
    path = root / "pipeline.yaml"
    listed = mapping(path).get("tasks") or []
    if not isinstance(listed, list) or not all(isinstance(task, dict) for task in listed):
        raise SettingsError("its tasks are not a list of stages", str(path), "Fix the file, then: mlloop check")
    return listed


def mapping(path: Path) -> JsonObject:
    """The keys and values of a YAML file; {} where it is empty.

    Raises
    ------
    SettingsError
        It is not there, is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise SettingsError("is not there", str(path), "Restore it, or begin a project: mlloop new DIR") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(" ".join(str(error).split()), str(path), "Fix the file, then: mlloop check") from error
    except RecursionError as error:
        raise SettingsError("is nested too deep", str(path), "Fix the file, then: mlloop check") from error
    if not is_bounded(content):
        raise SettingsError(
            f"holds more than {MOST_VALUES:,} values once its aliases (*) are filled in, or nests too deep",
            str(path),
            "Write out what the aliases stand for, then: mlloop check",
        )
    if not isinstance(content, dict):
        raise SettingsError(
            f"holds a {type(content).__name__}, expected keys and values",
            str(path),
            "Fix the file, then: mlloop check",
        )
    return content
