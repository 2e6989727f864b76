"""GitHub Actions: the project's workflow, its gates as jobs."""

from mlloop.export import ci
from mlloop.export.ci import Options as Options
from mlloop.export.exporters import Request


def files(request: Request, options: Options) -> dict[str, str]:
    """A workflow, for .github/workflows/ of the project's folder."""
    return {"loop.yml": ci.filled("github/workflow.yml", request, options)}
