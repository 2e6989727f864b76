"""Names and words: what a reader meets is called by the term of the field, and by one term everywhere."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from bs4 import BeautifulSoup

from mlloop.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlloop"
TEMPLATES = [*sorted((PACKAGE / "pages/templates").glob("*.html")), *sorted((PACKAGE / "scaffold/template").iterdir())]
NOTEBOOKS = [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# names that say how a value came about and not what it is
FILLERS = {
    "one",
    "found",
    "said",
    "made",
    "given",
    "told",
    "place",
    "seen",
    "looked",
    "wanted",
    "asked",
    "desk",
    "utils",
    "helper",
    "manager",
}

# name -> why it stays
NAMES = {
    "ProjectNotFound": "an error, as FileNotFoundError",
    "LoopKernelManager": "the name is Jupyter's",
    "contents_manager": "the name is Jupyter's",
    "exclude_seen": "recommenders call the items that a user has had seen items",
    "line_in_one": "a number: a line in one column",
    "made_of": "the key of a statement that says of which parts a column is made",
    "one_spelling": "a number: several spellings become one",
    "one_split": "a number: a tree with one split",
    "one_thread": "a number: one thread",
}

# what is not written -> what is
WORDS = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"as it came": "unedited",
    r"told": "reported, known",
    r"everybody": "overall; or who is meant",
    r"goes on|go on to": "is selected, continues",
    r"given up": "rejected, pruned",
    r"beliefs?|believes?|believed": "calibrated probability",
    r"rhythms?": "schedule",
    r"on trial": "in canary",
    r"asked for": "target, threshold; or required",
    r"held-out days?": "holdout period",
    r"(learn|train)(s|ed|t|ing)? (again|anew)": "retrain",
    r"turn(s|ed|ing)? the loop through": "replay",
    r"dearest": "most expensive",
    r"renew(s|ed)?": "retrain, replace",
}
BANNED = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)

# (file, sentence it stands in) -> why it stays
SENTENCES: dict[str, str] = {}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "template" not in path.parts and path.name != "_modidx.py":
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def names(node: ast.AST) -> Iterator[str]:
    """Public functions, methods and classes below `node`, their parameters, and annotated fields of classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield child.name
            bases = [base.id for base in child.bases if isinstance(base, ast.Name)]
            is_json = any(base == "TypedDict" or base.endswith(("Json", "View")) for base in bases)
            yield from (
                field.target.id
                for field in child.body
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and not is_json  # those are keys of JSON
            )
            yield from names(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not child.name.startswith("_") or child.name == "__init__"
        ):
            of = child.args
            every = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
            yield child.name
            yield from (argument.arg for argument in every)
        elif isinstance(child, ast.If | ast.Try):
            yield from names(child)


def parts(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def prose(tree: ast.Module) -> Iterator[str]:
    """String literals of several words that are no docstring: what the code may show."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docs
            and " " in node.value.strip()
        ):
            yield node.value


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from commands(below)


def wrong(text: str) -> list[str]:
    """The sentences of `text` with a word that is not written, code and quotations left out."""
    plain = re.sub(r"```.*?```|`[^`]*`|<code>.*?</code>", "", text, flags=re.DOTALL)
    sentences = re.split(r"(?<=[.:;?!])\s|\n\n|\|", plain)
    hits = [" ".join(one.split()) for one in sentences if BANNED.search(one)]
    return [hit for hit in hits if not any(kept in hit for kept in SENTENCES)]


def test_public_names_say_what_they_hold():
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in modules()
        for name in names(tree)
        if not name.startswith("_") and parts(name) & FILLERS and name not in NAMES
    ]
    assert not wrong, wrong


def test_every_allowed_name_is_there():
    assert set(NAMES) <= {name for _, tree in modules() for name in names(tree)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_uses_the_words_of_the_field(page):
    assert not wrong(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_templates_use_the_words_of_the_field(template):
    text = template.read_text(encoding="utf-8") if template.is_file() else ""
    if template.suffix == ".html":
        text = BeautifulSoup(re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}", " ", text, flags=re.DOTALL), "html.parser").get_text(
            " "
        )
    assert not wrong(text)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_use_the_words_of_the_field(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    hits = [hit for cell in cells if cell["cell_type"] == "markdown" for hit in wrong("".join(cell["source"]))]
    assert not hits


def test_help_uses_the_words_of_the_field():
    texts = []
    for command in commands(typer.main.get_command(app)):
        texts += [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
    assert len(texts) > 50 and not [line for text in texts for line in wrong(text)]


def test_what_the_code_shows_uses_the_words_of_the_field():
    found = [
        f"{path.relative_to(ROOT)}: {hit}" for path, tree in modules() for text in prose(tree) for hit in wrong(text)
    ]
    assert not found, "\n".join(found)


def test_a_word_that_is_not_written_is_found():
    assert wrong("The segment is 0.2 behind everybody. The `told` of code is its own matter.") == [
        "The segment is 0.2 behind everybody."
    ]
