"""Addresses that alerts go to, as Apprise has them: which settings.ini names, and how one message is sent."""

import hashlib
from dataclasses import dataclass

from mlloop.core.errors import SettingsError
from mlloop.core.settings import Settings


@dataclass(frozen=True)
class Address:
    """Where alerts go: the address as Apprise has it, and how it may be shown."""

    url: str
    shown: str

    @property
    def key(self) -> str:
        """What the ledger knows it by: no secret can be read from it."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]


def addresses(settings: Settings) -> list[Address]:
    """The addresses of settings.ini, checked.

    Raises
    ------
    SettingsError
        Apprise does not know one of them, or is not installed.
    """
    if not settings.alerts_to:
        return []
    where, step = "settings.ini [alerts] to", "Fix it, then: mlloop check"
    try:
        from apprise import Apprise
    except ImportError as error:
        raise SettingsError(
            "alerts need Apprise, which is not installed", where, "Install it: pip install 'mlloop[alerts]'"
        ) from error
    listed = []
    for url in settings.alerts_to:
        known = Apprise.instantiate(url, suppress_exceptions=True)
        if known is None:
            kind = url.partition("://")[0] if "://" in url else url[:20]
            raise SettingsError(f"an address of the kind {kind!r} is not one that Apprise knows", where, step)
        listed.append(Address(url, f"{url.partition('://')[0]}://{known.host or '…'}"))
    return listed


def send(url: str, title: str, body: str, severity: str) -> str:
    """Send one message; what went wrong, '' if nothing did."""
    import logging

    import apprise

    faults: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            faults.append(record.getMessage())

    logger, kept = logging.getLogger("apprise"), Kept(logging.WARNING)
    logger.addHandler(kept)
    try:
        to = apprise.Apprise()
        to.add(url)
        sent = to.notify(title=title, body=body, notify_type=severity, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:  # of a library, on the way to somebody else's server: never fails a turn
        return type(error).__name__
    finally:
        logger.removeHandler(kept)
    return "" if sent else _without_secrets(faults[0] if faults else "it was refused", url)


def _without_secrets(text: str, url: str) -> str:
    """A library's message without any part of the address that could be a secret."""
    parts = (part for part in url.replace("?", "/").replace("@", "/").replace(":", "/").split("/") if len(part) > 5)
    for part in parts:
        text = text.replace(part, "…")
    return text.rstrip(". ")
