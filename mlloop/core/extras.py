"""Which extra of the package brings a library, so that whoever lacks it reads what to install."""

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
    markers = [one.marker for one in required if canonicalize_name(one.name) == name and one.marker]
    return next((extra for extra in EXTRAS if any(marker.evaluate({"extra": extra}) for marker in markers)), None)


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
