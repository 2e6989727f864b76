"""Products kept by their digest, so that a decision can be looked into on exactly what it read."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlloop.core import clock, forms, storage
from mlloop.core.errors import DataError
from mlloop.core.settings import Settings


def cited(content: Any) -> Iterator[dict]:
    """What a product cites: the entries that name a version of a table, or a file with its digest."""
    if isinstance(content, dict):
        if {"uri", "version"} <= set(content) or {"path", "digest"} <= set(content):
            yield content
        for value in content.values():
            yield from cited(value)
    elif isinstance(content, list):
        for value in content:
            yield from cited(value)


def locate(settings: Settings, product: Path, path: str) -> Path:
    """Where a file is that a product cites: absolute, or relative to the project, its state folder or the product's."""
    places = [folder / path for folder in (settings.root, settings.state, product.parent)]
    return next((candidate for candidate in places if candidate.exists()), places[0])


def keep(settings: Settings, product: Path) -> str:
    """Keep a product and the files it cites; returns its digest. What is kept already is not written again."""
    digest = storage.digest_file(product)
    kept = settings.state / "objects" / f"{digest}.json"
    if not kept.exists():
        for entry in cited(storage.read_json(product)):
            if "path" in entry:
                _copy(locate(settings, product, entry["path"]), settings.state / "objects" / entry["digest"])
        _copy(product, kept)
    return digest


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    with storage.atomic_path(target) as beside:
        shutil.copytree(source, beside) if source.is_dir() else shutil.copyfile(source, beside)


def restore(settings: Settings, digest: str, target: Path) -> Path:
    """Write a kept product to `target`, its files cited where they are kept.

    Raises
    ------
    DataError
        It was not kept, or has been removed since.
    """
    stored = settings.state / "objects" / f"{digest}.json"
    if not stored.exists():
        raise DataError(
            f"the product {digest[:12]} is no longer kept",
            str(stored.parent),
            "It cannot be replayed; ask the gate again: mlloop gate need",
        )
    content = forms.brought_up(storage.read_json(stored))
    for entry in cited(content):
        kept = settings.state / "objects" / str(entry["digest"])
        if "path" in entry and kept.exists():
            entry["path"] = str(kept)
    return storage.write_json(target, content)


# ------------------------------------------------------------------------------------------------ erased rows


def note_erased(settings: Settings, changed: Mapping[str, str]) -> None:
    """Note that files have lost a person's rows, by the digests that they had and have: so that nobody takes them for damaged."""
    known, day = erased(settings), f"{clock.in_utc():%Y-%m-%d}"
    known |= {before: {"now": after, "on": day} for before, after in changed.items() if before != after}
    storage.write_json(settings.state / "erased.json", known)


def erased(settings: Settings) -> dict[str, dict[str, str]]:
    """The files that have lost a person's rows: digest before -> digest now, and the day."""
    file = settings.state / "erased.json"
    return storage.read_json(file) if file.exists() else {}


def erased_on(settings: Settings, cited: str | None, now: str | None) -> str | None:
    """The day on which a person's rows were erased from a file that is cited by one digest and has another now, or is gone."""
    known, digest, day = erased(settings), cited, None
    while digest in known and (day is None or digest != now):
        digest, day = known[digest]["now"], known[digest]["on"]
    return day if now in (None, digest) else None
