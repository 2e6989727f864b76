"""GitLab CI: the project's pipeline, its gates as jobs."""

from mlloop.export import ci
from mlloop.export.ci import Options as Options
from mlloop.export.exporters import Request


def files(request: Request, options: Options) -> dict[str, str]:
    """.gitlab-ci.yml, for the project's folder."""
    return {".gitlab-ci.yml": ci.filled("gitlab/gitlab-ci.yml", request, options)}
