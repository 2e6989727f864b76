"""Alerts that reach people: mail, Slack, PagerDuty, a webhook, by the addresses under [alerts] in settings.ini.

An alert is told once and its end once, to each address. That it began, that it ended and who was told are rows of the
ledger, so a turn that is killed or repeated tells nobody twice. An address that cannot be reached fails no turn: it is a
warning, and the next turn tells it again. How an address is read and a message sent is in `core.alert_channels`.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from mlloop.core.alert_channels import Address, addresses
from mlloop.core.alert_channels import send as by_apprise
from mlloop.core.errors import SettingsError
from mlloop.core.settings import Settings
from mlloop.loop.schedule import Turned
from mlloop.store.entries import Entry, Row
from mlloop.store.ledger import Ledger

PERSON = "failed twice"  # the decision that waits for a person
SEVERITY = {"opened": "failure", "ended": "success"}  # Apprise's words
Send = Callable[[str, str, str, str], str]


def notify(settings: Settings, ledger: Ledger, turned: Turned, send: "Send | None" = None) -> Turned:
    """Tell people what the turn found, once; the turn with a warning for each address that could not be told.

    Parameters
    ----------
    send : callable (url, title, body, severity) -> what went wrong, '' if nothing did
    """
    if not settings.alerts_to:
        return turned
    try:
        receivers = addresses(settings)
    except SettingsError as error:
        return replace(turned, warnings=[*turned.warnings, str(error)])
    _record(ledger, turned, receivers)
    failed = [
        f"Alert {row.id} could not be sent to {receiver.shown}: {wrong}. The next turn tries again."
        for row, receiver in _owed(ledger, turned.problem, receivers)
        if (wrong := _deliver(ledger, row, receiver, send or by_apprise))
    ]
    return replace(turned, warnings=[*turned.warnings, *failed])


def _record(ledger: Ledger, turned: Turned, receivers: Iterable[Address]) -> None:
    """Write down that an alert began or ended in this turn."""
    last = _standing(ledger, turned.problem)
    is_open = last is not None and last.subject == "opened"
    if last is not None and last.details["as_of"] >= turned.at:
        return
    entry = Entry(
        "alert",
        turned.problem,
        reasons=[turned.summary] if turned.summary else [],
        model=turned.champion,
        details={"as_of": turned.at, "to": [receiver.key for receiver in receivers]},
    )
    kind = _kind(turned)
    is_still_so = kind == PERSON and last is not None and last.details["what"] == turned.health
    if is_open and last is not None and last.details["what"] != kind and not is_still_so:
        _append(ledger, entry, "ended", str(last.details["what"]))
    if kind and (not is_open or last is None or last.details["what"] != kind):
        _append(ledger, entry, "opened", kind)


def _append(ledger: Ledger, entry: Entry, subject: str, what: str) -> None:
    key = f"alert:{subject}:{what}:{(entry.details or {})['as_of']}"
    ledger.append(replace(entry, subject=subject, key=key).with_details(what=what))


def _kind(turned: Turned) -> str:
    """What the alert is about; '' where there is none."""
    if not turned.alert:
        return ""
    if any(end["what"] == "fallback" for end in turned.ended):
        return "fell back"
    if turned.action == PERSON:
        return PERSON
    return turned.health if turned.health in ("worse", "feed broken") else turned.action


def _standing(ledger: Ledger, problem: str) -> Row | None:
    rows = [row for row in ledger.rows(problem=problem, kind="alert") if row.subject in SEVERITY]
    return rows[-1] if rows else None


def _owed(ledger: Ledger, problem: str, receivers: Iterable[Address]) -> list[tuple[Row, Address]]:
    """Who has not been told of what yet, the oldest first; of what began before an address was there it is not told."""
    rows = ledger.rows(problem=problem, kind="alert")
    done = {(row.details["of"], row.details["to"]) for row in rows if row.subject == "delivered"}
    by_key = {receiver.key: receiver for receiver in receivers}
    return [
        (row, by_key[key])
        for row in rows
        if row.subject in SEVERITY
        for key in row.details["to"]
        if key in by_key and (row.id, key) not in done
    ]


def _deliver(ledger: Ledger, row: Row, receiver: Address, send: Send) -> str:
    title, body = message(row)
    if wrong := send(receiver.url, title, body, SEVERITY[row.subject]):
        return wrong
    details = {"of": row.id, "to": receiver.key, "shown": receiver.shown, "as_of": row.details["as_of"]}
    key = f"alert:delivered:{row.id}:{receiver.key}"
    ledger.append(Entry("alert", row.problem, subject="delivered", model=row.model, details=details, key=key))
    return ""


TITLES = {
    "worse": "the model is worse than it was",
    "feed broken": "the feed is broken",
    "retrain": "the model is retrained",
    "fell back": "another answers in the model's place",
    PERSON: "two challengers failed in canary, a person has to look",
}


def message(row: Row) -> tuple[str, str]:
    """The title and the text of an alert or of its end."""
    what = TITLES.get(str(row.details["what"]), str(row.details["what"]))
    over = row.subject == "ended"
    title = f"{row.problem}: {'over: ' if over else ''}{what}"
    lines = [
        *row.reasons,
        f"Period until {str(row.details['as_of'])[:10]} (UTC); model {str(row.model or 'none')[:12]}; alert {row.id} of the ledger.",
        "" if over else f"Look: mlloop status --problem {row.problem}, or reports/{row.problem}/monitoring.html",
    ]
    return title, "\n\n".join(line for line in lines if line)
