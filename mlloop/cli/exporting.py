"""Commands that write files for the programs around a project: metrics, and `mlloop export NAME`, one command for each exporter."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlloop.cli import options, output

export = typer.Typer(no_args_is_help=True)
app = typer.Typer()
app.add_typer(
    export,
    name="export",
    help="Write the loop for the programs around it; each is one page of docs/stack.md.",
    epilog="Example: mlloop export airflow --problem shop --out dags/shop.py",
)


@app.command(epilog="Example: mlloop metrics --textfile /var/lib/prometheus/node-exporter/mlloop.prom")
def metrics(
    textfile: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A .prom file to write; default: the terminal.")
    ] = None,
) -> None:
    """Give model health, performance, drift, feed and decisions to Prometheus' textfile collector; see [metrics] in settings.ini."""
    text = options.project().metrics(textfile=textfile)
    typer.echo(output.relative(textfile) if textfile else text, nl=bool(textfile))


Problems = Annotated[
    list[str] | None, typer.Option("--problem", "-p", help="May be repeated; default: all statements.")
]
File = Annotated[Path | None, typer.Option("--out", help="The file to write; default: the terminal.")]
Folder = Annotated[Path | None, typer.Option("--out", help="The folder to write to; default: deploy/NAME.")]
Command = Annotated[str, typer.Option(help="How mlloop is called there.")]
Schedule = Annotated[str, typer.Option(help="@daily, @weekly or a cron expression.")]

Sample = Annotated[float, typer.Option(help="Share of the rows in the run on a sample.")]
Test = Annotated[str, typer.Option(help="How the project's tests are run.")]


def _write(name: str, problems: list[str] | None, out: Path | None, **choices: Any) -> None:
    """Write an export, and print the paths; a single file without `out` is printed itself."""
    from mlloop.export import exporters

    project = options.project()
    target = exporters.exporter(name)
    if out is None and target.folder:
        out = project.root / target.folder
    content = project.export(name, problems, out=out, options=choices)
    if out is None:
        return typer.echo("".join(content.values()), nl=False)
    for path in [out] if not target.folder else [out / path for path in content]:
        typer.echo(output.relative(path))


@export.command(epilog="Example: mlloop export airflow --problem shop --out dags/shop.py")
def airflow(
    problem: Problems = None, schedule: Schedule = "@daily", command: Command = "mlloop", out: File = None
) -> None:
    """The pipeline and the turns of the loop as DAGs for Airflow, a task a stage and a task a step."""
    _write("airflow", problem, out, schedule=schedule, command=command)


@export.command(epilog="Example: mlloop export dagster --problem shop --out loop_jobs.py")
def dagster(
    problem: Problems = None, schedule: Schedule = "@daily", command: Command = "mlloop", out: File = None
) -> None:
    """The pipeline and the turns of the loop as jobs for Dagster, an op a stage and an op a step."""
    _write("dagster", problem, out, schedule=schedule, command=command)


@export.command(epilog="Example: mlloop export gitlab --out .gitlab-ci.yml")
def gitlab(sample: Sample = 0.2, test: Test = "make test", problem: Problems = None, out: File = None) -> None:
    """GitLab CI: check, test, a run on a sample, both gates, the pages, and a promotion by hand."""
    _write("gitlab", problem, out, sample=sample, test=test)


@export.command(epilog="Example: mlloop export github --out .github/workflows/loop.yml")
def github(sample: Sample = 0.2, test: Test = "make test", problem: Problems = None, out: File = None) -> None:
    """GitHub Actions: check, test, a run on a sample, both gates, the pages, and a promotion by hand."""
    _write("github", problem, out, sample=sample, test=test)


@export.command(epilog="Example: mlloop export dvc --out dvc.yaml")
def dvc(command: Command = "mlloop", problem: Problems = None, out: File = None) -> None:
    """DVC: the pipeline as dvc.yaml, its outputs the tables, models and ledger; run it once before."""
    _write("dvc", problem, out, command=command)


@export.command(epilog="Example: mlloop export kubernetes --namespace shop --out deploy/kubernetes")
def kubernetes(
    namespace: Annotated[str, typer.Option(help="Where everything runs.")] = "mlloop",
    service_image: Annotated[
        str, typer.Option(metavar="NAME:TAG", help="The service's image; default: by the project's name.")
    ] = "",
    turns_image: Annotated[str, typer.Option(metavar="NAME:TAG", help="The turns' image.")] = "",
    schedule: Annotated[str, typer.Option(help="Of the turns: a cron expression, UTC.")] = "0 6 * * *",
    prometheus: Annotated[
        str, typer.Option(help="Its address in the cluster.")
    ] = "http://prometheus-server.monitoring.svc",
    repository: Annotated[
        str, typer.Option(help="The git repository that Argo CD follows.")
    ] = "https://git.example.org/team/project.git",
    revision: Annotated[str, typer.Option(help="Its branch or tag.")] = "main",
    storage_class: Annotated[str, typer.Option(help="Of the shared volume; default: the cluster's.")] = "",
    gpu: Annotated[
        str, typer.Option(metavar="KEY=VALUE", help="The label of nodes with a GPU.")
    ] = "nvidia.com/gpu.present=true",
    callers: Annotated[str, typer.Option(help="Namespaces that may call the service.")] = "ingress-nginx,monitoring",
    requests_per_replica: Annotated[
        int, typer.Option(min=1, help="Requests a second that call for another replica.")
    ] = 50,
    latency_ms: Annotated[int, typer.Option(min=1, help="What 95 % of the requests may take.")] = 250,
    problem: Problems = None,
    out: Folder = None,
) -> None:
    """Kubernetes: container files, manifests by kustomize, autoscaling, a canary of the code, GPU training, Argo CD."""
    choices = {"namespace": namespace, "service_image": service_image, "turns_image": turns_image, "schedule": schedule}
    choices |= {
        "prometheus": prometheus,
        "repository": repository,
        "revision": revision,
        "gpu": gpu,
        "callers": callers,
    }
    if out is not None:
        choices["folder"] = output.relative(out)
    _write(
        "kubernetes", problem, out, storage_class=storage_class, requests_per_replica=requests_per_replica,
        latency_ms=latency_ms, **choices,
    )  # fmt: skip


@export.command(epilog="Example: mlloop export monitoring --mail-to data-team@example.org --out deploy/monitoring")
def monitoring(
    service: Annotated[str, typer.Option(help="host:port of mlloop serve.")] = "localhost:8000",
    node: Annotated[str, typer.Option(help="host:port of node_exporter.")] = "localhost:9100",
    alertmanager: Annotated[str, typer.Option(help="host:port of Alertmanager.")] = "localhost:9093",
    mail_to: Annotated[str, typer.Option(help="Who gets the mail.")] = "data-team@example.org",
    mail_from: Annotated[str, typer.Option(help="Who sends it.")] = "alertmanager@example.org",
    smarthost: Annotated[str, typer.Option(help="host:port of the mail server.")] = "localhost:25",
    pagerduty_key: Annotated[
        str, typer.Option(help="The file with PagerDuty's integration key.")
    ] = "/etc/alertmanager/pagerduty.key",
    pagerduty_url: Annotated[
        str, typer.Option(help="Where events are sent.")
    ] = "https://events.pagerduty.com/v2/enqueue",
    problem: Problems = None,
    out: Folder = None,
) -> None:
    """Prometheus, Alertmanager and Grafana: scraping, rules with their tests, pager and mail, a board."""
    choices = {"service": service, "node": node, "alertmanager": alertmanager, "smarthost": smarthost}
    mail = {"mail_to": mail_to, "mail_from": mail_from}
    _write("monitoring", problem, out, **choices, **mail, pagerduty_key=pagerduty_key, pagerduty_url=pagerduty_url)


@export.command(epilog="Example: mlloop export great-expectations --problem shop")
def great_expectations(problem: Problems = None, out: Folder = None) -> None:
    """Great Expectations: each table's contract as a suite, a checkpoint on the lake, Data Docs beside the pages."""
    folder = {"folder": output.relative(out)} if out is not None else {}
    _write("great-expectations", problem, out, **folder)
