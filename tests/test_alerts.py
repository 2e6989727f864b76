"""An alert and its end reach people once, by a real mail server and a real webhook, and never fail a turn."""

import email
import http.server
import json
import socket
import threading
from dataclasses import replace

import pytest

from mlloop.core import settings as _settings
from mlloop.core.alert_channels import addresses
from mlloop.core.errors import SettingsError
from mlloop.loop import alerts
from mlloop.loop.schedule import Turned
from mlloop.store.ledger import Ledger

QUIET = Turned(
    "shop", "2025-08-04T00:00:00", "nothing", "no", "All is well.", "", "ok", False, "m1", None, 9, [], False, {}
)
WORSE = replace(QUIET, at="2025-08-11T00:00:00", health="worse", alert=True, summary="NDCG fell to 0.08.")


class Mailbox:
    """A mail server of this process, and what came in."""

    def __init__(self):
        from aiosmtpd.controller import Controller

        self.came = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._server = Controller(self, hostname="127.0.0.1", port=self.port)

    async def handle_DATA(self, server, session, envelope):
        self.came.append(email.message_from_bytes(envelope.content))
        return "250 OK"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop()


class Hook:
    """A webhook of this process: what came in, and the status that it answers with."""

    def __init__(self):
        self.came, self.status, hook = [], 200, self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                hook.came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"json://127.0.0.1:{self._server.server_port}/hook"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def places(tmp_path):
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n")
    (tmp_path / "settings.ini").write_text("[alerts]\nto =\n")

    def place(*urls):
        return replace(_settings.load(tmp_path), alerts_to=urls)

    return place


def told(settings, *turns):
    ledger = Ledger.open(settings)
    return [alerts.notify(settings, ledger, one).warnings for one in turns]


def test_a_mail_and_a_webhook_get_an_alert_and_its_end_once(places):
    with Mailbox() as mailbox, Hook() as hook:
        mail = f"mailto://127.0.0.1:{mailbox.port}?from=loop@example.org&to=team@example.org&mode=insecure"
        later = replace(WORSE, at="2025-08-18T00:00:00")
        well = replace(QUIET, at="2025-08-25T00:00:00")
        assert told(places(mail, hook.url), QUIET, WORSE, WORSE, later, well, well) == [[]] * 6
    assert [one["title"] for one in hook.came] == [
        "shop: the model is worse than it was",
        "shop: over: the model is worse than it was",
    ]
    assert [one["type"] for one in hook.came] == ["failure", "success"]
    assert "NDCG fell to 0.08." in hook.came[0]["message"] and "mlloop status --problem shop" in hook.came[0]["message"]
    subjects = [str(email.header.make_header(email.header.decode_header(one["Subject"]))) for one in mailbox.came]
    assert subjects == [one["title"] for one in hook.came]
    assert mailbox.came[0]["To"].endswith("team@example.org>") or "team@example.org" in mailbox.came[0]["To"]


def test_an_address_that_is_down_is_a_warning_and_is_told_by_the_next_turn(places):
    with Hook() as good, Hook() as bad:
        bad.status = 500
        settings = places(good.url, bad.url)
        ((warning,),) = told(settings, WORSE)
        assert warning.startswith("Alert 1 could not be sent to json://127.0.0.1") and "The next turn" in warning
        bad.status = 200
        assert told(settings, WORSE) == [[]]  # the same turn again, as a scheduler may
    assert len(good.came) == 1 and len(bad.came) == 2


def test_a_turn_that_was_killed_while_it_told_people_goes_on_where_it_was(places):
    settings, sent = places("json://127.0.0.1:9/a", "json://127.0.0.1:9/b"), []

    def killed(url, *_):
        if sent:
            raise KeyboardInterrupt
        sent.append(url)
        return ""

    with pytest.raises(KeyboardInterrupt):
        alerts.notify(settings, Ledger.open(settings), WORSE, send=killed)
    alerts.notify(settings, Ledger.open(settings), WORSE, send=lambda url, *_: sent.append(url) or "")
    assert [url[-1] for url in sent] == ["a", "b"]


def test_another_kind_of_alert_ends_the_one_before(places):
    settings, sent = places("json://127.0.0.1:9/a"), []
    broken = replace(WORSE, at="2025-08-18T00:00:00", health="feed broken", summary="No rows came.")
    for one in (WORSE, broken):
        alerts.notify(settings, Ledger.open(settings), one, send=lambda url, title, *_: sent.append(title) or "")
    assert sent == [
        "shop: the model is worse than it was",
        "shop: over: the model is worse than it was",
        "shop: the feed is broken",
    ]


def test_a_person_is_called_while_the_model_stays_worse(places):
    settings, sent = places("json://127.0.0.1:9/a"), []
    called = replace(
        WORSE, at="2025-08-18T00:00:00", action="failed twice", summary="A person has to find what differs."
    )
    for one in (WORSE, called, replace(called, at="2025-08-25T00:00:00"), replace(QUIET, at="2025-09-01T00:00:00")):
        alerts.notify(settings, Ledger.open(settings), one, send=lambda url, title, *_: sent.append(title) or "")
    person = "two challengers failed in canary, a person has to look"
    assert sent == ["shop: the model is worse than it was", f"shop: {person}", f"shop: over: {person}"]


def test_an_address_that_came_later_is_not_told_of_the_past(places):
    settings, sent = places("json://127.0.0.1:9/a"), []
    send = lambda url, title, *_: sent.append(url[-1]) or ""
    alerts.notify(settings, Ledger.open(settings), WORSE, send=send)
    both = places("json://127.0.0.1:9/a", "json://127.0.0.1:9/b")
    alerts.notify(both, Ledger.open(both), replace(WORSE, at="2025-08-18T00:00:00"), send=send)
    assert sent == ["a"]


def test_the_ledger_and_the_warnings_hold_no_secret(places):
    settings = places("json://user:geheim99@127.0.0.1:9/token12345")
    ((warning,),) = told(settings, WORSE)
    rows = json.dumps([row.to_dict() for row in Ledger.open(settings).rows()])
    assert not [secret for secret in ("geheim99", "token12345") for text in (warning, rows) if secret in text]


def test_a_wrong_address_is_found_by_the_check(places):
    with pytest.raises(SettingsError, match="kind 'slak' is not one that Apprise knows"):
        addresses(places("slak://a/b/c"))
    assert addresses(places()) == []
