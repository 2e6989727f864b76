"""The service: what it refuses and how, who answers, hot swaps, kills, fuzzing; and batch scoring as the same code."""

import datetime as dt
import json
import logging
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pandas as pd
import pytest
from browser import PROGRAM, Browser
from production import Production, environment, sales

from mlloop import deployment, serving
from mlloop.core import storage
from mlloop.core.errors import MlloopError, UsageError
from mlloop.loop import session
from mlloop.service import batch, connections, http
from mlloop.store import prediction_log
from mlloop.store.entries import Entry


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with a champion for each of two problems, and another model of the loans."""
    made = Production(tmp_path_factory.mktemp("served"))
    made.a, made.b, made.s = (
        made.train("linear"),
        made.train("lightgbm", slice(0, 700), n_estimators=20),
        made.train_shop(),
    )
    made.deploy(made.a)
    made.deploy(made.s)
    return made


@pytest.fixture
def production(trained, tmp_path):
    """A copy of that project, so that a test may promote and log as it likes."""
    return trained.copy(tmp_path / "project")


@pytest.fixture(scope="module")
def served(trained):
    """The service on the first project; for tests that change nothing."""
    with trained.serve() as running:
        yield running


def logged(production, problem: str = "loan") -> pd.DataFrame:
    return prediction_log.read(prediction_log.folder_of(production.settings, problem))


# ---------------------------------------------------------------------------------------------- asking


def test_one_row_and_many_rows_are_answered_and_kept(trained, served):
    one = served.ask(trained.ask(3)).json()
    many = served.ask([trained.ask(n) for n in range(3, 6)]).json()
    assert set(one) == {"prediction_id", "score", "prediction", "threshold", "threshold_from", "model", "role"}
    assert len(many) == 3 and many[0]["score"] == one["score"] and many[0]["prediction_id"] != one["prediction_id"]
    kept = logged(trained).set_index("id").loc[[one["prediction_id"], *(each["prediction_id"] for each in many)]]
    assert kept["entity"].tolist() == [trained.ask(n)["id"] for n in (3, 3, 4, 5)]
    assert kept["score"].iloc[0] == one["score"] and kept["model"].iloc[0] == trained.a["digest"]
    assert json.loads(kept["row"].iloc[0]) == {k: v for k, v in trained.ask(3).items() if k != "id"}


def test_a_recommender_answers_for_a_known_user_and_for_a_stranger(trained, served):
    known, stranger = (served.ask({"user": user, "k": 4}, "/recommend").json()["items"] for user in ("u3", "nobody"))
    assert len(known) == len(stranger) == 4 and all(item < "i10" for item in known), "u3 keeps to the first third"
    assert len(served.ask({"user": "u3"}, "/shop/recommend").json()["items"]) == 5
    assert logged(trained, "shop")["items"].iloc[0].tolist() == known


def test_what_was_bought_since_the_model_learnt_is_not_shown(trained, served):
    before = served.ask({"user": "u3", "k": 5}, "/recommend").json()["items"]
    told = {"user": "u3", "k": 5, "exclude": [before[0], before[3], "an item of yesterday"]}
    after = served.ask(told, "/recommend").json()["items"]
    assert after[:3] == [before[1], before[2], before[4]] and len(after) == 5
    assert json.loads(logged(trained, "shop")["row"].iloc[-1])["exclude"] == told["exclude"]
    assert served.ask({"user": "u3", "exclude": "i01"}, "/recommend").status_code == 422


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"amount": -1}, ["amount"]),
        ({"amount": "much"}, ["amount"]),
        ({"amount": None}, ["amount"]),
        ({"age": 7}, ["age"]),
        ({"town": "Atlantis"}, ["town"]),
        ({"twon": "Ely"}, ["twon"]),
        ({"job": ["smith"]}, ["job"]),
        ({"id": "x" * 300}, ["id"]),
    ],
)
def test_a_bad_row_is_told_by_its_field_and_its_content_is_kept_nowhere(trained, served, change, loc):
    secret = "Rumpelstiltskin"
    row = {**trained.ask(), "job": secret, **change}
    before = len(logged(trained))
    answer = served.ask(row)
    assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == loc
    assert secret not in answer.text and secret not in served.errors.read_text() and len(logged(trained)) == before
    assert served.ask([trained.ask(), row]).json()["detail"][0]["loc"] == [1, *loc]


def test_what_is_no_request_is_refused(trained, served):
    post = lambda content: served.client.post("/predict", content=content)
    for content in (
        b"",
        b"{",
        b"null",
        b"[]",
        b"[1]",
        b"\xff\xfe",
        b'{"amount": 1e999}',
        b'{"amount": NaN}',
        b"[" * 5000,
    ):
        assert post(content).status_code == 422, content
    assert post(b'"' + b"x" * http.MAX_BODY + b'"').status_code == 413
    assert served.client.post("/predict", content=(b"x" * 65536 for _ in range(40))).status_code == 413, (
        "no length stated"
    )
    assert served.ask([trained.ask()] * (http.MAX_ROWS + 1)).status_code == 422
    assert served.ask(trained.ask(), "/nothing").status_code == 404
    assert served.client.get("/predict").status_code == 405


def test_the_documentation_shows_the_models_own_fields(served):
    made = served.client.get("/openapi.json").json()
    row = made["components"]["schemas"]["LoanRow"]
    assert list(row["properties"]) == ["amount", "age", "town", "job", "id"] and row["required"] == ["amount"]
    assert (
        row["properties"]["amount"]["maximum"] == 1000
        and "sum asked for, EUR" in row["properties"]["amount"]["description"]
    )
    assert set(made["paths"]) == {
        "/health",
        "/ready",
        "/metrics",
        "/predict",
        "/loan/predict",
        "/recommend",
        "/shop/recommend",
    }
    assert "swagger" in served.client.get("/docs").text.lower()


def test_the_documentation_needs_nothing_from_elsewhere(served):
    page = served.client.get("/docs").text
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(assets) >= 3 and all(asset.startswith("/") for asset in assets), assets
    assert not re.findall(r"""["'](?:https?:)?//""", page) and '"validatorUrl": null' in page
    for asset in assets:
        answer = served.client.get(asset)
        assert answer.status_code == 200 and len(answer.content) > 1000, asset


def test_the_root_tells_a_person_and_a_program_where_to_go(served):
    told = served.client.get("/").json()
    assert told["ask"] == ["POST /predict", "POST /loan/predict", "POST /recommend", "POST /shop/recommend"]
    page = served.client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html") and "POST /shop/recommend" in page.text
    links = re.findall(r"href='([^']+)'", page.text)
    assert links == [place for place in told if place not in ("service", "ask")]
    assert all(served.client.get(f"/{link}").status_code == 200 for link in links)


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_a_browser_shows_the_documentation_and_asks_nobody_else(served, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{served.url}/docs")
        drawn = "document.querySelector('.opblock') ? document.body.innerText : ''"
        wait = f"for (let i = 0; i < 200 && !({drawn}); i++) await new Promise(r => setTimeout(r, 50))"
        assert "/loan/predict" in browser.run(f"(async () => {{ {wait}; return {drawn} }})()")
        asked = [url for url in browser.requests if not url.startswith(("data:", served.url))]
    assert asked == [] and any(url.endswith("/openapi.json") for url in browser.requests)


def test_figures_count_what_was_asked(trained, served):
    figure = lambda: {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in served.client.get("/metrics").text.splitlines()
        if not line.startswith("#")
    }
    before = figure()
    served.ask([trained.ask()] * 7)
    served.ask({})
    after = figure()
    gained = lambda name: after[name] - before.get(name, 0)
    assert gained('mlloop_predictions_total{problem="loan",role="champion"}') == 7
    assert gained('mlloop_predictions_logged_total{problem="loan"}') == 7
    assert gained('mlloop_requests_total{problem="loan",status="422"}') == 1
    assert after[f'mlloop_served_model_info{{model="{trained.a["digest"][:12]}",problem="loan",role="champion"}}'] == 1


def test_a_token_is_asked_for_everywhere_but_at_health_and_ready(production):
    with production.serve(MLLOOP_TOKEN="sesame") as running:
        assert running.ask(production.ask()).status_code == 401
        assert running.ask(production.ask(), headers={"authorization": "Bearer sesamy"}).status_code == 401
        assert running.client.get("/metrics").status_code == running.client.get("/openapi.json").status_code == 401
        assert running.client.get("/health").status_code == running.client.get("/ready").status_code == 200
        assert running.ask(production.ask(), headers={"authorization": "Bearer sesame"}).status_code == 200


def test_ready_tells_details_only_to_who_has_the_token(production):
    with production.serve(MLLOOP_TOKEN="sesame") as running:
        assert running.client.get("/ready").json() == {"ready": True}
        told = running.client.get("/ready", headers={"authorization": "Bearer sesame"}).json()
        assert set(told["problems"]) == {"loan", "shop"}


def test_ready_forgets_a_fault_that_has_passed(production):
    ledger = production.root / ".mlloop/ledger.db"
    with production.serve() as running:
        kept = ledger.read_bytes()
        ledger.write_bytes(b"no database " * 1000)
        running.until(lambda found: "database" in (found["problems"]["loan"]["fault"] or ""))
        ledger.write_bytes(kept)
        found = running.until(lambda found: found["problems"]["loan"]["fault"] is None)
        assert found["ready"] and running.ask(production.ask()).status_code == 200


def test_a_release_that_could_not_be_loaded_takes_over_when_it_can(production):
    release = production.root / ".mlloop/releases/loan" / production.b["release"][:32]
    away = release.with_name("away")
    with production.serve("--problem", "loan") as running:
        release.rename(away)
        production.ledger.append(
            Entry(
                "promotion",
                "loan",
                model=production.b["digest"],
                expect=production.a["digest"],
                digests={"model": production.b["digest"], "release": production.b["release"]},
            )
        )
        running.until(lambda found: found["problems"]["loan"]["fault"])
        away.rename(release)
        running.until(lambda found: found["problems"]["loan"]["champion"] == production.b["digest"][:12])


# ---------------------------------------------------------------------------------------------- callers who misbehave


def connected(running, first: bytes = b"") -> socket.socket:
    """A connection that has sent `first`."""
    made = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])), timeout=30)
    made.sendall(first)
    return made


HEAD = b"POST /loan/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n"


@pytest.mark.parametrize("first", [b"", HEAD, HEAD + b"\r\n{"], ids=["silent", "headers", "body"])
def test_a_request_that_does_not_come_whole_is_ended(production, first):
    with production.serve("--problem", "loan", "--request-s", "0.5") as running:
        with connected(running, first) as slow:
            assert slow.recv(1000).startswith(b"HTTP/1.1 408") and slow.recv(1000) == b""
        assert running.ask(production.ask()).status_code == 200
        assert 'mlloop_connections_closed_total{why="too slow"} 1.0' in running.client.get("/metrics").text


def test_many_idle_callers_do_not_keep_others_from_being_answered(production):
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, soft[1]))  # for 400 sockets of our own
    running = production.serve("--problem", "loan", prefix=["prlimit", "--nofile=256:256"])
    try:
        idle = [connected(running) for _ in range(400)]
        with running:
            assert all(running.ask(production.ask(n)).status_code == 200 for n in range(20))
            assert 'mlloop_connections_closed_total{why="no room"}' in running.client.get("/metrics").text
        for one in idle:
            one.close()
        assert running.errors.read_text() == ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)


def test_more_requests_than_are_taken_at_once_are_told_when_to_come_back(production):
    with production.serve("--problem", "loan", "--max-requests", "1") as running:
        many = [production.ask(n) for n in range(900)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda _: httpx.post(running.url + "/predict", json=many, timeout=60, trust_env=False), range(16)
                )
            )
    refused = [one for one in answers if one.status_code == 503]
    assert {one.status_code for one in answers} == {200, 503} and all(
        one.headers["retry-after"] == "1" for one in refused
    )


def test_a_caller_who_hangs_up_is_counted_and_leaves_no_traceback(production):
    with production.serve("--problem", "loan") as running:
        for _ in range(5):
            connected(running, HEAD + b"\r\n{").close()
        for _ in range(5):  # a reset
            gone = connected(running, HEAD + b"\r\n{")
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
        end = time.monotonic() + 120
        while 'mlloop_clients_gone_total{problem="loan"} 10.0' not in (text := running.client.get("/metrics").text):
            assert time.monotonic() < end, text
    assert running.errors.read_text() == ""


def test_log_lines_of_one_kind_are_folded(caplog):
    logger = logging.getLogger("mlloop.test.folded")
    folded = connections.Folded(every_s=60)
    logger.addFilter(folded)
    for number in range(1000):
        logger.warning("socket %d has no room", number)
        logger.error(f"request {number} failed")
    assert [one.getMessage() for one in caplog.records] == ["socket 0 has no room", "request 0 failed"]
    folded.every_s = 0
    logger.warning("socket %d has no room", 7)
    assert caplog.records[-1].getMessage() == "socket 7 has no room (and 999 more of this kind since the last line)"


@pytest.mark.parametrize("words", [[], ["--host", "nowhere.invalid", "--port", "0"]], ids=["in use", "unknown"])
def test_a_port_that_cannot_be_had_is_told_in_words(trained, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = words or ["--port", str(taken.getsockname()[1])]
        done = trained.mlloop("serve", *given, env={**environment(), "MLLOOP_TOKEN": "x"})
    assert done.returncode == 2 and "cannot listen on" in done.stderr and "mlloop serve --port 0" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 3


def test_a_service_that_others_can_reach_needs_a_token():
    with pytest.raises(UsageError, match="needs a token"):
        http.Options(host="0.0.0.0")
    assert http.Options(host="0.0.0.0", token="sesame").token


def test_random_requests_by_its_own_description_find_no_server_error(served, tmp_path):
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json", "--max-examples", "60",
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            "--phases", "examples,fuzzing", "--mode", "all", "--generation-database", "none", "--seed", "1", "--no-color",
        ],
        capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "500" not in served.client.get("/metrics").text.split("mlloop_requests_total", 1)[1].split("# HELP")[
        0
    ].replace("500.0", "")


# ---------------------------------------------------------------------------------------------- who answers


def test_the_same_customer_is_answered_by_the_same_model_while_a_canary_is_on(production):
    production.deploy(production.b)
    with production.serve() as running:
        running.until(lambda found: found["problems"]["loan"]["canary"])
        first = [running.ask(production.ask(n)).json()["role"] for n in range(60)]
        again = [one["role"] for one in running.ask([production.ask(n) for n in range(60)]).json()]
    assert first == again and 15 < first.count("canary") < 45, "a half of them"
    expected = [serving.takes_canary(production.ask(n)["id"], production.b["digest"], 0.5) for n in range(60)]
    assert [role == "canary" for role in first] == expected


def test_swaps_under_load_fail_no_request(production):
    """Champion and rollback in turn, as fast as the service follows, while four clients ask without a pause."""
    second = [production.b["digest"], production.b["release"]]
    with production.serve() as running:
        done, failed, answered = threading.Event(), [], []

        def client(number: int) -> None:
            with httpx.Client(base_url=running.url, timeout=120, trust_env=False) as own:
                while not done.is_set():
                    answer = own.post("/predict", json=production.ask(number))
                    answered.append(answer.json()["model"]) if answer.status_code == 200 else failed.append(answer.text)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(20):  # the hundred are in benchmarks/serving.py
            if turn % 2 == 0:
                deployment.promote(production.settings, production.ledger, "loan", *second)
            else:
                deployment.rollback(production.settings, production.ledger, "loan")
            now = production.ledger.champion("loan").model[:12]
            running.until(lambda found, now=now: found["problems"]["loan"]["champion"] == now)
        done.set()
        for thread in threads:
            thread.join()
    assert not failed and set(answered) == {production.a["digest"][:12], production.b["digest"][:12]}
    assert len(logged(production)) == len(answered)


def test_a_release_altered_while_the_service_runs_does_not_take_over(production):
    with production.serve() as running:
        place = deployment.releases.folder_of(production.settings, "loan", production.b["release"])
        production.ledger.append(
            Entry(
                "promotion",
                "loan",
                model=production.b["digest"],
                expect=production.a["digest"],
                digests={"release": production.b["release"]},
            )
        )
        running.until(lambda found: found["problems"]["loan"]["champion"] == production.b["digest"][:12])
        whole = (place / "model.onnx").read_bytes()
        deployment.rollback(production.settings, production.ledger, "loan")
        running.until(lambda found: found["problems"]["loan"]["champion"] == production.a["digest"][:12])
        (place / "model.onnx").write_bytes(whole[:-1] + b"x")
        production.ledger.append(
            Entry(
                "promotion",
                "loan",
                model=production.b["digest"],
                expect=production.a["digest"],
                digests={"release": production.b["release"]},
            )
        )
        found = running.until(lambda found: found["problems"]["loan"]["fault"])
        assert "was altered" in found["problems"]["loan"]["fault"]
        assert running.ask(production.ask()).json()["model"] == production.a["digest"][:12]


def test_a_canary_that_cannot_be_loaded_leaves_the_champion_answering(production):
    production.deploy(production.b)
    storage.remove(deployment.releases.folder_of(production.settings, "loan", production.b["release"]))
    with production.serve() as running:
        assert {one["role"] for one in running.ask([production.ask(n) for n in range(40)]).json()} == {"champion"}
        assert "no release" in running.client.get("/ready").json()["problems"]["loan"]["fault"]


def test_a_problem_without_a_champion_is_not_ready_until_it_has_one(trained, tmp_path):
    production = trained.copy(tmp_path / "project")
    (production.root / "problems/other.yaml").write_text(
        (production.root / "problems/loan.yaml").read_text().replace("name: loan", "name: other")
    )
    with production.serve("--problem", "other") as running:
        assert running.client.get("/ready").status_code == 503 and running.ask(production.ask()).status_code == 503
    done = Production(tmp_path / "empty", make=True).mlloop("serve", "--port", "0")
    assert done.returncode == 2 and "no model is in production" in done.stderr


# ---------------------------------------------------------------------------------------------- the log


def test_a_service_killed_under_load_loses_no_acknowledged_prediction(production):
    for _ in range(3):
        running = production.serve()
        acknowledged: list[str] = []

        def client(number: int, url=running.url, acknowledged=acknowledged) -> None:
            with httpx.Client(base_url=url, timeout=120, trust_env=False) as own:
                try:
                    while True:
                        acknowledged.append(own.post("/predict", json=production.ask(number)).json()["prediction_id"])
                except httpx.HTTPError:
                    return

        with ThreadPoolExecutor(8) as clients:
            futures = [clients.submit(client, n) for n in range(8)]
            end = time.monotonic() + 120
            while len(acknowledged) < 150 and time.monotonic() < end:
                time.sleep(0.01)
            running.kill()
            for one in futures:
                one.result()
        running.client.close()
        assert len(acknowledged) >= 150
        assert not set(acknowledged) - set(logged(production)["id"])
    folder = prediction_log.folder_of(production.settings, "loan")
    before = logged(production)
    assert prediction_log.seal(folder) == 3 and not list(folder.glob("*.jsonl"))
    pd.testing.assert_frame_equal(logged(production), before)


def test_two_services_on_one_project_answer_alike_and_lose_nothing(production):
    with production.serve() as first, production.serve() as second:
        both = (first, second)
        answers = [running.ask(production.ask(n)).json() for n in range(20) for running in both]
        assert [one["score"] for one in answers[::2]] == [one["score"] for one in answers[1::2]]
        production.deploy(production.b)
        deployment.promote(
            production.settings, production.ledger, "loan", production.b["digest"], production.b["release"]
        )
        for running in both:
            running.until(lambda found: found["problems"]["loan"]["champion"] == production.b["digest"][:12])
        answers += [running.ask(production.ask(n)).json() for n in range(20) for running in both]
        first.kill()
        answers += [second.ask(production.ask(n)).json() for n in range(20)]
        assert prediction_log.seal(prediction_log.folder_of(production.settings, "loan")) == 1  # the living one's stays
        answers += [second.ask(production.ask(n)).json() for n in range(20)]
    assert sorted(one["prediction_id"] for one in answers) == sorted(logged(production)["id"])


def test_requests_under_way_are_answered_before_the_service_stops(production):
    with production.serve() as running, ThreadPoolExecutor(8) as clients:
        rows = [production.ask(n) for n in range(900)]
        waiting = [clients.submit(running.ask, rows) for _ in range(8)]
        time.sleep(0.15)
        running.process.send_signal(signal.SIGTERM)
        ended = running.process.wait(120)
        answers = []
        for one in waiting:
            try:
                answers.append(one.result())
            except httpx.NetworkError:
                continue  # the door was shut before it was let in; had it been read, the log would hold more rows below
    assert ended == 0 and answers and all(one.status_code == 200 and len(one.json()) == 900 for one in answers)
    assert len(logged(production)) == 900 * len(answers)


def test_predictions_that_cannot_be_written_are_counted_and_shown(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = prediction_log.Log(tmp_path, segment_bytes=1_000_000)
    try:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # a disk with 100 kB left
        assert log.append([{"id": "1", "at": "2025-01-01"}, {"id": "2", "at": "2025-01-01"}]) is False
        assert (log.lost, log.written) == (2, 0) and "too large" in log.fault.lower()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert log.append([{"id": "3", "at": "2025-01-01"}]) is True and log.fault is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        log.close()
    assert prediction_log.read(tmp_path)["id"].tolist() == ["3"]


def test_a_torn_line_is_left_out_and_what_stands_before_it_is_read(tmp_path):
    log = prediction_log.Log(tmp_path)
    for n in range(3):
        log.append([{"id": str(n), "at": f"2025-01-0{n + 1}", "row": {"x": n}}])
    log.close()
    (path,) = tmp_path.glob("*.jsonl")
    content = path.read_bytes()
    at = content.index(b'{"id":"2"')
    path.write_bytes(content[: at + 8] + b"\0" * 500)
    assert prediction_log.read(tmp_path)["id"].tolist() == ["0", "1"]
    assert prediction_log.seal(tmp_path) == 1 and prediction_log.read(tmp_path)["id"].tolist() == ["0", "1"]
    assert prediction_log.requests(prediction_log.read(tmp_path))["x"].tolist() == [0, 1]


def test_a_segment_that_is_being_written_is_not_sealed(tmp_path):
    log = prediction_log.Log(tmp_path)
    log.append([{"id": "1", "at": "2025-01-01"}])
    assert prediction_log.seal(tmp_path) == 0 and len(prediction_log.read(tmp_path)) == 1
    log.close()
    assert prediction_log.seal(tmp_path) == 1


def test_a_segment_that_a_killed_service_had_prepared_is_removed_and_a_living_ones_is_not(production):
    folder = prediction_log.folder_of(production.settings, "loan")
    served = production.serve("--problem", "loan")
    hidden = list(folder.glob(".*.part.jsonl"))
    assert hidden and prediction_log.sweep(folder) == 0 and prediction_log.seal(folder) == 0
    session.clear(production.settings, "loan", "loan")  # a turn beside a service leaves it its segment
    assert list(folder.glob(".*.part.jsonl")) == hidden
    served.kill()
    assert prediction_log.sweep(folder) == len(hidden) and not list(folder.glob(".*.part*"))


def test_a_segment_that_is_full_is_followed_by_another(tmp_path):
    log = prediction_log.Log(tmp_path, segment_bytes=4096)
    for n in range(100):
        log.append([{"id": f"{n:03}", "at": "2025-01-01", "row": {"text": "x" * 200}}])
    log.close()
    assert len(list(tmp_path.glob("*.jsonl"))) > 3
    assert prediction_log.read(tmp_path)["id"].tolist() == [f"{n:03}" for n in range(100)]


def test_labels_join_by_who_was_asked_about_and_by_the_predictions_id(trained, served):
    said = served.ask([trained.ask(n) for n in range(600, 605)]).json()
    log = logged(trained)
    log = log[log["id"].isin([one["prediction_id"] for one in said])]
    joined = prediction_log.with_labels(log, trained.rows[["id", "repaid"]], "id", "repaid")
    assert joined["label"].tolist() == trained.rows["repaid"].iloc[1400:1405].tolist()
    by_id = pd.DataFrame({"prediction_id": [one["prediction_id"] for one in said][:2], "repaid": [1, 0]})
    joined = prediction_log.with_labels(log, by_id, "prediction_id", "repaid", by="id").set_index("id")
    assert joined["label"].loc[by_id["prediction_id"]].tolist() == [1, 0] and joined["label"].isna().sum() == 3


# ---------------------------------------------------------------------------------------------- batch


def test_batch_and_service_answer_alike(production):
    production.deploy(production.b)
    table = production.rows.iloc[800:1000]
    table.to_parquet(production.root / "asked.parquet")
    done = production.mlloop("predict", "asked.parquet", "--problem", "loan", "--out", "said.parquet", "--json")
    assert done.returncode == 0, done.stderr
    batch = pd.read_parquet(production.root / "said.parquet")
    with production.serve() as running:
        said = pd.DataFrame(running.ask([production.ask(n) for n in range(200)]).json())
    assert batch["id"].tolist() == table["id"].tolist() and set(batch["role"]) == {"champion", "canary"}
    for column in ("score", "prediction", "model", "role"):
        assert batch[column].tolist() == said[column].tolist(), column
    assert len(logged(production)) == 400


def test_batch_sets_bad_rows_aside_and_says_why(production):
    table = production.rows.iloc[800:810].copy()
    table.iloc[2, table.columns.get_loc("amount")] = -5
    table.iloc[3, table.columns.get_loc("town")] = "Atlantis"
    table.to_csv(production.root / "asked.csv", index=False)
    done = production.mlloop("predict", "asked.csv", "--problem", "loan", "--no-log", "--out", "said.csv")
    assert done.returncode == 0 and "8 of 10 rows answered" in done.stdout and "1 refused: amount" in done.stdout
    assert len(pd.read_csv(production.root / "said.csv")) == 8 and logged(production).empty


def test_a_file_states_a_category_as_it_is_written_and_a_number_that_is_none_is_refused(production):
    (production.root / "codes.csv").write_text(
        "id,amount,age,town,job\n01,5,,Ely,021\n02,5,40,Ely,\n03,much,40,Ely,7\n"
    )
    done = batch.score(production.settings, "loan", str(production.root / "codes.csv"))
    assert done.summary["answered"] == 2 and next(iter(done.summary["refused"])).startswith("amount: ")
    pd.DataFrame({"id": ["04", "05"], "amount": 5, "job": [21.0, None]}).to_parquet(production.root / "codes.parquet")
    batch.score(production.settings, "loan", str(production.root / "codes.parquet"))
    (production.root / "codes.jsonl").write_text('{"id": "06", "amount": 5, "job": "021"}\n{"id": "07", "amount": 5}\n')
    batch.score(production.settings, "loan", str(production.root / "codes.jsonl"))
    kept = logged(production).set_index("entity")
    jobs = prediction_log.requests(kept)["job"].where(lambda job: job.notna(), None)
    assert jobs.to_dict() == {"01": "021", "02": None, "04": "21", "05": None, "06": "021", "07": None}


def test_what_was_bought_is_not_shown_again_however_long_the_list(production):
    release = deployment.load_release(production.settings, production.ledger, "shop", production.s["digest"])
    bought = set(production_sales("u3"))
    release.repeats = False
    for user, gone in (("u3", bought), ("stranger", set())):
        items = release.answers([{"user": user, "k": 1000}])[0]["items"]
        assert len(items) == 30 - len(gone) and not gone & set(items)


def production_sales(user: str) -> list[str]:
    return [str(item) for item in sales().query("user == @user")["item"]]


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing.csv", "cannot be read"), ("asked.docx", "no known kind"), ("short.csv", "lacks amount")],
)
def test_a_table_that_cannot_be_scored_is_refused(production, name, said, monkeypatch):
    (production.root / "short.csv").write_text("age,town\n20,Ely\n")
    monkeypatch.chdir(production.root)
    with pytest.raises(MlloopError, match=said):
        batch.score(production.settings, "loan", name, log=False)


def test_batch_recommends_for_every_user(production):
    ask = lambda text: (
        (production.root / "users.csv").write_text(text)
        and production.mlloop("predict", "users.csv", "--problem", "shop", "--out", "lists.csv")
    )
    done = ask("user\nu1\nu2\nstranger\n")
    assert done.returncode == 0, done.stderr
    lists = pd.read_csv(production.root / "lists.csv")
    assert lists.groupby("user")["rank"].max().to_dict() == {"u1": 5, "u2": 5, "stranger": 5}
    one, two, *rest = lists.loc[lists["user"] == "u1", "item"]
    (production.root / "lists.csv").unlink()
    assert ask(f"user,exclude\nu1,{one}; {two}\nu2,\n").returncode == 0
    again = pd.read_csv(production.root / "lists.csv")
    assert again.loc[again["user"] == "u1", "item"].tolist()[:3] == rest
    assert again.loc[again["user"] == "u2", "item"].tolist() == lists.loc[lists["user"] == "u2", "item"].tolist()


def test_what_a_table_leaves_out_is_read_as_the_text_that_it_is(production):
    (production.root / "users.csv").write_text("user,exclude\nu1,021\nu2,\n")
    pd.DataFrame({"user": ["u1", "u2"], "exclude": [["021", "i01"], None]}).to_parquet(
        production.root / "users.parquet"
    )
    for name, told in (("users.csv", ["021"]), ("users.parquet", ["021", "i01"])):
        batch.score(production.settings, "shop", str(production.root / name))
        kept = logged(production, "shop").tail(2).set_index("entity")["row"].map(json.loads)
        assert kept["u1"]["exclude"] == told and kept["u2"].get("exclude") is None


def test_a_period_opens_only_the_segments_that_can_hold_it(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    for day in range(1, 6):
        log = prediction_log.Log(tmp_path)
        log.append(
            [
                {
                    "id": f"p{day}",
                    "at": f"2025-03-0{day}T12:00:00.000000",
                    "problem": "loan",
                    "model": "m",
                    "role": "champion",
                }
            ]
        )
        log.close()
        prediction_log.seal(tmp_path)
    opened, read = [], pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda path, **more: (opened.append(path), read(path, **more))[1])
    found = prediction_log.read(tmp_path, dt.datetime(2025, 3, 3), dt.datetime(2025, 3, 4))
    assert list(found["id"]) == ["p3"] and len(opened) == 1
    assert len(prediction_log.read(tmp_path)) == 5
