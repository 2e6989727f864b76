"""README, CONTRIBUTING and the site: their commands exist, their links lead somewhere, the site fetches nothing."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from bs4 import BeautifulSoup

from mlloop.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands(page: Path) -> list[list[str]]:
    """The command lines in a page: fenced shell lines, and code spans that begin with a program of ours."""
    text = page.read_text(encoding="utf-8")
    fenced = [line.strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spans = re.findall(r"`((?:mlloop|make) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in fenced + spans]
    return [[Path(words[0]).name, *words[1:]] for words in lines if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documentation_exists(page):
    made = [ROOT / "Makefile", ROOT / "mlloop" / "templates" / "project" / "Makefile"]
    targets = [t for file in made for t in re.findall(r"^([a-z]+):", file.read_text(encoding="utf-8"), re.MULTILINE)]
    for words in commands(page):
        if words[0] == "make":
            assert words[1] in targets, words
        elif words[0] == "mlloop" and not words[1].isupper():
            command = COMMANDS[words[1]]
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word.split("=")[0] for word in words if word.startswith("-")} <= known, words


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
