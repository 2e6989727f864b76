"""What the pipelines of GitLab and GitHub share: the template's values, and how it is filled in."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mlloop.core.errors import UsageError
from mlloop.export.exporters import Request

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    sample : float
        Share of the rows in the run on a sample, 0 < sample <= 1.
    test : str
        How the project's tests are run.
    """

    sample: float = 0.2
    test: str = "make test"

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise UsageError(f"{self.sample!r} is no share of the rows", "--sample", "Example: --sample 0.2")
        if not re.fullmatch(r"[\w./ =:-]+", self.test):
            raise UsageError(f"{self.test!r} cannot be written into the file", "--test", "Example: --test 'make test'")


def filled(template: str, request: Request, options: Options) -> str:
    """A pipeline's text. With one problem the jobs have plain names, with several each has its problem's behind it."""
    several = len(request.problems) > 1
    problems = [
        {"name": name, "suffix": f"-{name}" if several else "", "id": f"-{name}" if several else ""}
        for name in request.problems
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, block_start_string="[%", block_end_string="%]", variable_start_string="[[", variable_end_string="]]",
    )  # fmt: skip
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return environment.get_template(template).render(vars(options), problems=problems, python=python)
