"""Containers and Kubernetes: images for the service and for the turns, manifests, a canary of the code, autoscaling, Argo CD."""

import hashlib
import re
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jinja2

from mlloop.core import extras
from mlloop.core.errors import UsageError
from mlloop.core.records import Parameters
from mlloop.export.exporters import Request

TEMPLATES = Path(__file__).parent / "templates" / "kubernetes"
PARTS = ("pod.yaml", "container.yaml")  # included by others
IMAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9.:/_-]*?)(?::(?P<tag>[\w.-]+))?")

SERVICE = "mlloop[serve,postgres,kafka]"


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    namespace : str
    service_image, turns_image : str
        Where the two images are pushed, with a tag; default: registry.example.org/PROJECT-service:latest and -turns.
    schedule : str
        Of the turns, a cron expression in UTC; a turn that is not due does nothing.
    prometheus : str
        Its address inside the cluster.
    repository, revision : str
        The git repository and branch that Argo CD follows.
    storage_class : str
        Of the volume, which several pods write; '' for the cluster's default.
    gpu : str
        The label of nodes with a GPU, KEY=VALUE.
    callers : str
        The namespaces that may call the service, separated by commas.
    requests_per_replica : int
        Requests a second from which another replica is started.
    latency_ms : int
        95 % of the requests take at most so long; beyond that another replica is started, and a canary of the code fails.
    folder : str
        Where the files will lie, relative to the project; the container files and Argo CD name it.
    """

    namespace: str = "mlloop"
    service_image: str = ""
    turns_image: str = ""
    schedule: str = "0 6 * * *"
    prometheus: str = "http://prometheus-server.monitoring.svc"
    repository: str = "https://git.example.org/team/project.git"
    revision: str = "main"
    storage_class: str = ""
    gpu: str = "nvidia.com/gpu.present=true"
    callers: str = "ingress-nginx,monitoring"
    requests_per_replica: int = 50
    latency_ms: int = 250
    folder: str = "deploy/kubernetes"

    def __post_init__(self) -> None:
        _must("--namespace", self.namespace, r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "mlloop")
        _must("--schedule", self.schedule, r"(\S+ ){4}\S+", "'0 6 * * 1'")
        _must("--gpu", self.gpu, r"[\w./-]+=[\w.-]*", "nvidia.com/gpu.present=true")
        _must("--prometheus", self.prometheus, r"https?://[^\s\"']+", "http://prometheus.monitoring.svc:9090")
        _must("--repository", self.repository, r"[^\s\"']+", "https://git.example.org/team/project.git")
        _must("--revision", self.revision, r"[\w./-]+", "main")
        _must("--storage-class", self.storage_class, r"[a-z0-9.-]*", "nfs")
        _must("--callers", self.callers, r"[a-z0-9-]+(,[a-z0-9-]+)*", "ingress-nginx,monitoring")
        for name, image in (("--service-image", self.service_image), ("--turns-image", self.turns_image)):
            _must(name, image, rf"|{IMAGE.pattern}", "registry.example.org/shop-service:1.4.0")


def _must(option: str, value: str, pattern: str, example: str) -> None:
    if not re.fullmatch(pattern, value):
        step = f"Example: mlloop export kubernetes {option} {example}"
        raise UsageError(f"{value!r} cannot be meant", option, step)


@dataclass(frozen=True)
class Names:
    """What the files call things."""

    request: Request
    options: Options

    @cached_property
    def project(self) -> str:
        """The project's name as Kubernetes writes names."""
        return label(self.request.root.name, longest=20)

    @cached_property
    def package(self) -> str:
        """The project's package, from pyproject.toml."""
        file = self.request.root / "pyproject.toml"
        stated = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return str(stated.get("tool", {}).get("nbdev", {}).get("lib_name", ""))

    def image(self, part: str) -> tuple[str, str]:
        """Name and tag of the image of 'service' or 'turns'."""
        stated = getattr(self.options, f"{part}_image") or f"registry.example.org/{self.project}-{part}"
        matched = IMAGE.fullmatch(stated)
        assert matched is not None
        return matched["name"], matched["tag"] or "latest"


def label(text: str, longest: int = 26) -> str:
    """A text as a DNS label that begins with a letter; a long one ends with a part of its digest, so that it stays unique.

    A CronJob's name has 52 characters at most: 20 of the project, 6 between, 26 of the problem.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "mlloop"
    name = name if name[0].isalpha() else f"p-{name}"
    if len(name) <= longest:
        return name
    return f"{name[: longest - 7].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def files(request: Request, options: Options) -> dict[str, str]:
    """Container files and manifests; see docs/stack.md."""
    names = Names(request, options)
    service, turns = names.image("service"), names.image("turns")
    gpu_label, gpu_value = options.gpu.split("=", 1)
    values: Parameters = {
        **vars(options), "name": names.project, "package": names.package, "is_checkout": names.package == "mlloop",
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}", "gpu_label": gpu_label, "gpu_value": gpu_value,
        "service_image": ":".join(service), "service_image_name": service[0], "service_image_tag": service[1],
        "turns_image": ":".join(turns), "turns_image_name": turns[0], "turns_image_tag": turns[1],
        "callers": options.callers.split(","),
        "problems": [{"name": name, "label": label(name)} for name in request.problems],
        "streams": [{"name": name, "label": label(name)} for name in request.problems if _has_topic(request, name)],
    }  # fmt: skip
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, block_start_string="[%", block_end_string="%]", variable_start_string="[[", variable_end_string="]]",
    )  # fmt: skip
    paths = sorted(path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*") if path.is_file())
    written = {path: environment.get_template(path).render(values) for path in paths if path not in PARTS}
    written = {path: text for path, text in written.items() if path != "base/stream.yaml" or values["streams"]}
    return {**written, "requirements.service.txt": "\n".join(service_requirements()) + "\n"}


def _has_topic(request: Request, problem: str) -> bool:
    return any(source.kind == "kafka" for source in request.statement(problem).sources.values())


def service_requirements() -> list[str]:
    """What the service's image installs beside mlloop: everything pinned as installed here, the rest as it is required."""
    needed = extras.closure([SERVICE])
    pinned = [f"{name}=={version}" for name, version in needed.versions.items() if name != "mlloop"]
    return sorted([*pinned, *needed.missing.values()])
