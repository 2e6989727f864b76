"""`mlloop export monitoring` in the real programs: promtool, Prometheus, Alertmanager, and a receiver of mail and of PagerDuty's events."""

import contextlib
import http.server
import json
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from environments import environment, program
from production import Production

from mlloop.core.settings import load
from mlloop.export import exporters, metrics, monitoring

COUNTERS = """\
mlloop_requests_total{problem="shop",status="200"} 10
mlloop_predictions_total{problem="shop",role="champion"} 10
mlloop_predictions_lost_total{problem="shop"} 0
mlloop_request_duration_seconds_bucket{problem="shop",le="0.05"} 10
mlloop_request_duration_seconds_bucket{problem="shop",le="+Inf"} 10
mlloop_decisions_total{problem="shop",kind="gate",subject="need",verdict="yes"} 1
"""


def figures() -> str:
    """One sample of everything that mlloop publishes; the model of the problem shop is worse."""
    values = {"health": ["worse"], "fallback": ["rule"]}
    lines = [
        f'mlloop_{name}{{problem="shop"'
        + "".join(f',{label}="{values.get(name, ["x"])[0]}"' for label in labels)
        + "} 1\n"
        for name, (_, labels) in metrics.GAUGES.items()
    ]
    return "".join(lines) + COUNTERS


def exported(root: Path, **options) -> Path:
    """The files of the export, in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").touch()
    (root / "pipeline.yaml").touch()
    content = exporters.files("monitoring", load(root), ["shop"], options)
    exporters.write("monitoring", content, root / "out")
    return root / "out"


def check(*words: str | Path, **options) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_programs_accept_what_is_written_and_each_rule_fires_and_stays_silent(tmp_path):
    promtool, amtool = program("promtool"), program("amtool")
    out = exported(tmp_path)
    assert "1 rule files found" in check(promtool, "check", "config", out / "prometheus.yml")
    assert "SUCCESS" in check(promtool, "test", "rules", out / "rules_test.yml")
    assert "2 receivers" in check(amtool, "check-config", out / "alertmanager.yml")
    text = (out / "rules_test.yml").read_text()
    assert text.count("stays silent") == len(monitoring.ALERTS)
    (out / "rules_test.yml").write_text(
        text.replace("exp_alerts: []", "exp_alerts: [{exp_labels: {severity: warning}}]")
    )
    with pytest.raises(AssertionError, match="FAILED"):
        check(promtool, "test", "rules", out / "rules_test.yml")


def test_batch_and_service_name_their_figures_by_the_conventions(tmp_path):
    promtool = program("promtool")
    made = Production(tmp_path / "loans", make=True)
    made.deploy(made.train())
    figures = metrics.text(made.settings)
    assert 'mlloop_model_info{model="' in figures and "mlloop_decisions_total" in figures
    path = metrics.write(made.settings, tmp_path / "mlloop.prom")
    assert path.stat().st_mode & 0o044 and path.read_text().count("\n") == figures.count("\n")
    with made.serve("--problem", "loan") as served:
        served.ask([made.ask()] * 3)
        served.ask({})
        for text in (figures, served.client.get("/metrics").text):
            assert check(promtool, "check", "metrics", input=text) == ""


@pytest.mark.slow
def test_the_board_is_read_by_grafanas_own_types(tmp_path):
    python = environment("grafana", "grafana-foundation-sdk==1769699998!10.1.0") / "python"
    board = exported(tmp_path) / "grafana" / "mlloop.json"
    code = "import json, sys; from grafana_foundation_sdk.models.dashboard import Dashboard\n"
    code += "given = json.load(open(sys.argv[1])); read = Dashboard.from_json(given)\n"
    code += "print(read.title, len(read.panels), len(given['panels']), [one.type_val for one in read.panels])"
    said = check(python, "-c", code, board)
    n = len(monitoring.PANELS)
    assert said.startswith(f"mlloop {n} {n}")


# ------------------------------------------------------------------------------------------- from a figure to a person


class Receiver(http.server.BaseHTTPRequestHandler):
    """Hands out the figures, and keeps the events that PagerDuty would get."""

    events: ClassVar[list[dict]] = []

    def do_GET(self):
        self._answer(200, figures().encode())

    def do_POST(self):
        self.events.append(json.loads(self.rfile.read(int(self.headers["content-length"]))) | {"path": self.path})
        self._answer(202, b'{"status": "success"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


class Mail(socketserver.StreamRequestHandler):
    """A mail server that keeps what it is sent."""

    letters: ClassVar[list[str]] = []

    def handle(self):
        say = lambda line: self.wfile.write(f"{line}\r\n".encode())
        say("220 test")
        for line in self.rfile:
            word = line.decode().strip().upper()
            if word == "DATA":
                say("354 go on")
                self.letters.append("".join(part.decode() for part in iter(self.rfile.readline, b".\r\n")))
            say("221 bye" if word == "QUIT" else "250 ok")
            if word == "QUIT":
                return


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def running(*words: str | Path, ready: str):
    """A program for as long as the block lasts, from when it answers at `ready`."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: httpx.get(ready).status_code == 200)
        yield
    finally:
        process.terminate()
        process.wait(30)


def until(holds, seconds: float = 180):
    """Wait until `holds` does; returns what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if found := holds():
                return found
        time.sleep(0.5)
    raise AssertionError("it did not come")


@pytest.mark.slow
def test_an_alert_reaches_the_pager_and_the_mailbox_and_every_panel_can_be_asked(tmp_path):
    prometheus, alertmanager = program("prometheus"), program("prometheus-alertmanager", "alertmanager")
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    for server in (web, mail):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    at = lambda port: f"127.0.0.1:{port}"
    rules, pager = at(free_port()), at(free_port())
    (tmp_path / "key").write_text("0123456789")
    out = exported(
        tmp_path, service=at(web.server_port), node=at(web.server_port), alertmanager=pager, smarthost=at(mail.server_address[1]),
        pagerduty_key=str(tmp_path / "key"), pagerduty_url=f"http://{at(web.server_port)}/v2/enqueue",
    )  # fmt: skip
    quick = (out / "prometheus.yml").read_text().replace("30s", "1s")
    (out / "prometheus.yml").write_text(quick)
    plain = (out / "alertmanager.yml").read_text().replace("group_wait: 30s", "group_wait: 1s")
    (out / "alertmanager.yml").write_text(plain.replace("global:", "global:\n  smtp_require_tls: false"))
    storage = [f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address={rules}"]
    listen = [f"--storage.path={tmp_path}/am", f"--web.listen-address={pager}", "--cluster.listen-address="]
    with (
        running(alertmanager, f"--config.file={out}/alertmanager.yml", *listen, ready=f"http://{pager}/-/ready"),
        running(prometheus, f"--config.file={out}/prometheus.yml", *storage, ready=f"http://{rules}/-/ready"),
    ):
        ask = lambda expr: httpx.get(f"http://{rules}/api/v1/query", params={"query": expr}).json()
        until(lambda: ask("mlloop_health")["data"]["result"])
        for panel in monitoring.PANELS:
            for expr in panel.queries.values():
                answer = ask(expr.replace("$problem", ".*"))
                assert answer["status"] == "success", (panel.title, answer)
                assert "rate(" in expr or answer["data"]["result"], (panel.title, expr)
        broken = until(lambda: [event for event in Receiver.events if event["payload"]["class"] == "MlloopFeedBroken"])[
            0
        ]
        letter = until(lambda: [letter for letter in Mail.letters if "MlloopFellBack" in letter])[0]
    assert (
        broken["path"] == "/v2/enqueue"
        and broken["routing_key"] == "0123456789"
        and broken["event_action"] == "trigger"
    )
    payload = broken["payload"]
    assert payload["summary"] == "shop: the data that the model is fed are broken" and payload["severity"] == "critical"
    assert payload["group"] == "shop" and payload["component"] == "mlloop" and payload["source"]
    assert "To: data-team@example.org" in letter and "severity" in letter
    # a warning does not page, and on a broken feed the model is not judged
    paged = {event["payload"]["class"] for event in Receiver.events}
    assert "MlloopFellBack" not in paged and "MlloopModelWorse" not in paged
    for server in (web, mail):
        server.shutdown()
