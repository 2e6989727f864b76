"""README, CONTRIBUTING and the site: their commands exist, their links lead somewhere, the site fetches nothing."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import typer.main
from bs4 import BeautifulSoup

from mlloop.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def command_of(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The command that a line calls, that of a group too, and the words that are left to it."""
    command, rest = COMMANDS[words[1]], words[2:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-") and rest[0] != "NAME":
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest if not hasattr(command, "commands") else ["--help"]


def commands(page: Path) -> list[list[str]]:
    """The command lines in a page: fenced shell lines, and code spans that begin with a program of ours."""
    text = page.read_text(encoding="utf-8")
    fenced = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spans = re.findall(r"`((?:mlloop|make) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in fenced + spans]
    return [[Path(words[0]).name, *words[1:]] for words in lines if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documentation_exists(page):
    made = [ROOT / "Makefile", ROOT / "mlloop" / "scaffold" / "template" / "Makefile"]
    targets = [t for file in made for t in re.findall(r"^([a-z]+):", file.read_text(encoding="utf-8"), re.MULTILINE)]
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "mlloop" and words[1] not in ("--install-completion", "--help", "COMMAND"):
            command, _ = command_of(words)
            known = {option for parameter in command.params for option in parameter.opts}
            free = words[-1] == "--help" or command.context_settings.get("ignore_unknown_options", False)
            assert free or {word.split("=")[0] for word in words if word.startswith("-")} <= known, words


CHEAP = {"status", "why", "log", "at", "check", "report", "export", "promote", "rollback", "replay"}
DECIDED = {"promote": 1, "rollback": 1, "replay": 1}  # nothing was decided yet: they refuse, and say the next step
RAN = {("export", "dvc"): 2}  # nothing ran yet


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The project as somebody has it who has just got it."""
    root = tmp_path_factory.mktemp("fresh")
    for name in ("settings.ini", "pipeline.yaml", "env.yaml", "requirements.lock", "problems", "nbs"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    return root


def shown(page: Path) -> list[list[str]]:
    """The cheap commands of a page that are given whole, not only named."""
    fenced = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in fenced for line in block.splitlines()]
    return [words[1:] for words in lines if words and Path(words[0]).name == "mlloop" and words[1] in CHEAP]


def examples() -> list[list[str]]:
    every = [*COMMANDS.values(), *COMMANDS["export"].commands.values()]
    told = [command.epilog.removeprefix("Example: ") for command in every]
    return [shlex.split(one)[1:] for one in told if shlex.split(one)[1] in CHEAP]


def test_the_cheap_commands_of_the_readme_and_of_the_help_run(fresh):
    lines = {tuple(words) for words in shown(ROOT / "README.md") + shown(ROOT / "CONTRIBUTING.md") + examples()}
    assert {words[0] for words in lines} == CHEAP
    for words in sorted(lines):
        asked = [word for word in words if word != "--open"]
        done = forked.run(
            [sys.executable, "-m", "mlloop", *asked], cwd=fresh, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == RAN.get(words[:2], DECIDED.get(words[0], 0)), (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and (done.stdout or "mlloop" in done.stderr), words


def test_the_costly_commands_of_the_documentation_would_be_understood():
    """Each is parsed with all its words, up to the point where it would begin to work."""
    for page in PAGES:
        for words in commands(page):
            if words[0] == "mlloop" and not words[1].isupper() and not words[1].startswith("-"):
                command, rest = command_of(words)
                if "--help" not in rest:
                    command.make_context(words[1], rest, resilient_parsing=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_of_the_front_door_in_the_documentation_exists(page):
    from mlloop.project import Project
    from mlloop.service.champion import Champion

    code = "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    for name, kind in {"project": Project, "champion": Champion}.items():
        set_by_init = set(re.findall(r"self\.(\w+)", inspect.getsource(kind.__init__)))
        assert set(re.findall(rf"\b{name}\.(\w+)", code)) <= {*dir(kind), *set_by_init}
    assert set(re.findall(r"\bmlloop\.(open|Project|\w+(?=\())", code)) <= {"open", "Project"}
    assert page.name not in ("README.md", "python.md") or "mlloop.open()" in code


def test_the_readme_has_commands_to_check():
    assert len(commands(ROOT / "README.md")) >= 10


def test_every_setting_and_stage_named_in_the_documentation_exists():
    stages = re.findall(r"name: (\S+)", (ROOT / "pipeline.yaml").read_text(encoding="utf-8"))
    named = re.findall(
        r"^\| \d\d_(\w+) \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert named == stages


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_site_builds_and_fetches_nothing_from_the_network(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        parsed = BeautifulSoup(text, "html.parser")
        fetched = [tag.get("src") or "" for tag in parsed.find_all(["script", "img", "iframe"])]
        fetched += [tag["href"] for tag in parsed.find_all("link", href=True)]
        assert not [one for one in fetched if str(one).startswith(("http:", "https:", "//"))], page
        assert "import(" not in "".join(script.text for script in parsed.find_all("script")), page


def test_every_test_that_the_documentation_names_exists():
    pages = [ROOT / "docs" / "reliability.md", ROOT / "docs" / "security.md", ROOT / "SECURITY.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 40
    for file, test in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source if test else source, f"{file}::{test}"
