"""What the package needs: which extra brings a library, and which versions of everything are installed here."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from mlloop.core.errors import UsageError

EXTRAS = ("serve", "train", "watch", "lab", "postgres", "spark", "kafka", "expectations")
# name in an import -> name in the package index, where they differ by more than a hyphen
DISTRIBUTIONS = {
    "bs4": "beautifulsoup4", "dateutil": "python-dateutil", "ibis": "ibis-framework", "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip


def extra_of(module: str) -> str | None:
    """The first extra that brings a module; None where none does, or the package is not installed.

    Parameters
    ----------
    module : str
        As in an import, such as 'sklearn.linear_model'.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    top = module.partition(".")[0]
    name = canonicalize_name(DISTRIBUTIONS.get(top, top))
    try:
        required = [Requirement(line) for line in metadata.requires("mlloop") or []]
    except metadata.PackageNotFoundError:
        return None
    markers = [
        requirement.marker
        for requirement in required
        if canonicalize_name(requirement.name) == name and requirement.marker
    ]
    return next((extra for extra in EXTRAS if any(marker.evaluate({"extra": extra}) for marker in markers)), None)


@dataclass(frozen=True)
class Closure:
    """What requirements need in turn, as it is installed here.

    Attributes
    ----------
    versions : dict of str to str
        Canonical name -> version, without a local part such as +cpu.
    missing : dict of str to str
        Canonical name -> the requirement, of what is not installed.
    """

    versions: dict[str, str]
    missing: dict[str, str]


def closure(requirements: Iterable[str]) -> Closure:
    """The requirements, what they need in turn, and with their extras."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    result = Closure({}, {})
    waiting, visited = [Requirement(text) for text in requirements], set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        try:
            installed = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            result.missing.setdefault(name, str(requirement).partition(";")[0].strip())
            continue
        result.versions[name] = installed.version.partition("+")[0]
        for extra in {"", *requirement.extras} - {known for other, known in visited if other == name}:
            visited.add((name, extra))
            stated = map(Requirement, installed.requires or [])
            waiting += [
                requirement
                for requirement in stated
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            ]
    return result


def lacking(error: ModuleNotFoundError, command: str) -> UsageError | None:
    """What a person reads whose command needs what is not installed; None where the module is none of ours."""
    extra = extra_of(error.name or "")
    if extra is None:
        return None
    if extra == "serve" and command != "serve":
        extra = "train"  # other commands need more than the service
    return UsageError(
        f"this needs the library {(error.name or '').partition('.')[0]}, which is not installed",
        None,
        f"Install it: pip install 'mlloop[{extra}]' (or 'mlloop[all]' for everything)",
    )
