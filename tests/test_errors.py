"""Every error that the code can raise says what to do next."""

import ast
from pathlib import Path

import pytest

from mlloop.core import errors

ROOT = Path(__file__).resolve().parents[1]
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.MlloopError)}
MODULES = sorted(path for path in (ROOT / "mlloop").rglob("*.py") if not path.name.startswith("_"))


def made(tree: ast.AST) -> list[ast.Call]:
    """The places where an error of ours is made."""
    called = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = lambda f: f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else ""
    return [node for node in called if named(node.func) in KINDS]


def has_next_step(call: ast.Call) -> bool:
    spread = any(isinstance(one, ast.Starred) for one in call.args) or any(k.arg is None for k in call.keywords)
    given = [*call.args[2:3], *(keyword.value for keyword in call.keywords if keyword.arg == "next_step")]
    return spread or any(not (isinstance(one, ast.Constant) and not one.value) for one in given)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_every_error_names_a_next_step(module):
    calls = made(ast.parse(module.read_text(encoding="utf-8")))
    assert [f"line {call.lineno}" for call in calls if not has_next_step(call)] == []


def test_the_walk_finds_errors_with_and_without_a_next_step():
    found = made(
        ast.parse(
            "raise DataError('x', 'y')\nerrors.LakeError('x', 'y', 'z')\nUsageError('x', next_step='y')\n"
            "UsageError('x', 'y', '')\nUsageError('x', next_step=None)"
        )
    )
    assert [has_next_step(call) for call in found] == [False, True, True, False, False]
    assert sum(len(made(ast.parse(path.read_text(encoding="utf-8")))) for path in MODULES) > 100


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_error_is_told_in_three_parts(kind):
    error = getattr(errors, kind)("is 3, expected 4", "loan.yaml:12", "Fix it, then: mlloop check")
    assert str(error) == "loan.yaml:12: is 3, expected 4\nFix it, then: mlloop check"
    assert error.exit_code in (1, 2, 3, 5) and kind in errors.__doc__
