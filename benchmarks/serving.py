"""How quick is the service? One worker, one-row requests, on loopback; ratios of one run, since machines differ.

Five servers answer for the same LightGBM model on the census of the problem `employment`: a bare uvicorn answer (what a
Python server costs before it does anything), FastAPI with scikit-learn as one would write it by hand, `mlflow models
serve`, and mlloop with its prediction log: on disk before an answer leaves (the default), and with the operating system.
Then a hundred hot swaps under load. Run: python benchmarks/serving.py [--seconds 4] [--rounds 3]
"""

import argparse
import contextlib
import json
import os
import random
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = (4, 32)

ECHO = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive())["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13"), (b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"score":0.5}'})
"""

PLAIN = """
import sys
import pandas as pd
from fastapi import FastAPI
from pydantic import create_model
from mlloop import candidates
folder, fields = sys.argv_given
model, app = candidates.load(folder), FastAPI()
Row = create_model("Row", **{name: ((float if kind == "number" else str), ...) for name, kind in fields.items()})

@app.post("/predict")
def predict(row: Row):
    return {"score": float(model.predict_proba(pd.DataFrame([row.model_dump()]))[0, 1])}
"""

RUN = "import sys, uvicorn; sys.argv_given = {given}; import app; uvicorn.run(app.app, port={port}, log_level='warning', access_log=False)"


# ---------------------------------------------------------------------------------------------- the model


def prepare(root: Path):
    """A project in `root` with two models of the census in its registry, the first of them in production."""
    import pandas as pd

    from mlloop.core import settings as _settings

    _settings.switch_off_telemetry()
    from nannyml import datasets

    from mlloop import deployment
    from mlloop import problem as problems
    from mlloop.models import candidates
    from mlloop.release import preparation
    from mlloop.store import tracking
    from mlloop.store.entries import Entry
    from mlloop.store.ledger import Ledger

    for name in ("settings.ini", "env.yaml", "pipeline.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "problems").mkdir()
    (root / "problems/employment.yaml").write_bytes((ROOT / "problems/employment.yaml").read_bytes())
    settings = _settings.load(root)
    statement = problems.load(root / "problems/employment.yaml")
    rows = datasets.load_us_census_ma_employment_data()[0]
    names = [
        c for c in statement.tables["census"].columns if c in rows and statement.tables["census"].columns[c].feature
    ]
    names.remove("employed") if "employed" in names else None
    for name in names:
        numeric = statement.tables["census"].columns[name].type == "number"
        rows[name] = rows[name].astype(float) if numeric else rows[name].astype(str)
    models = []
    for trees in (120, 60):
        fitted = candidates.build("lightgbm", statement.task, 0, {"n_estimators": trees})
        fitted.fit(rows[names].head(20_000), rows["employed"].head(20_000))
        saved = candidates.save(fitted, root / f"model-{trees}")
        sample = rows[names].iloc[20_000:20_005]
        from mlflow.models import infer_signature

        signature = infer_signature(sample, fitted.predict(sample))
        version = tracking.register_model(
            "employment", saved["path"], saved["form"], signature, settings=settings
        ).version
        made = preparation.prepare(settings, statement, {"name": "lightgbm", **saved}, rows.iloc[20_000:22_000], names)
        Ledger.open(settings).append(
            Entry("gate", "employment", subject="validation", verdict="yes", model=saved["digest"])
        )
        models.append(
            {**saved, "version": version, "release": made.digest, "parity": made.parity.largest, "form": made.form}
        )
    deployment.deploy(settings, Ledger.open(settings), statement, models[0]["digest"], models[0]["release"])
    asked = [json.loads(pd.Series(row).to_json()) for row in rows[names].iloc[30_000:30_500].to_dict("records")]
    kinds = {name: "number" if rows[name].dtype.kind == "f" else "text" for name in names}
    return settings, models, asked, kinds


# ---------------------------------------------------------------------------------------------- servers


def free_port() -> int:
    """A free port below those that the system gives to outgoing connections, which could take it before the server."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(command: list[str], port: int, cwd: Path, wait_s: float = 180):
    """A server process, once it accepts connections; yields the seconds that took."""
    began = time.monotonic()
    log = (cwd / "server.log").open("a")
    process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, start_new_session=True)
    try:
        while time.monotonic() - began < wait_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended: {(cwd / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield time.monotonic() - began
    finally:
        if process.poll() is not None:
            print(f"ended by itself with {process.returncode}: {' '.join(command)[:200]}", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def python(code: str, app: str, given, port: int, place: Path) -> list[str]:
    folder = place / f"app-{port}"
    folder.mkdir()
    (folder / "app.py").write_text(app)
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); " + code.format(given=repr(given), port=port)
    return [sys.executable, "-c", start]


def servers(root: Path, models, kinds):
    """name -> (command, port, path, how a row becomes a body)."""
    one = lambda row: json.dumps(row).encode()
    frame = lambda row: json.dumps({"dataframe_records": [row]}).encode()
    ports = [free_port() for _ in range(5)]
    mlloop = [str(Path(sys.executable).with_name("mlloop")), "serve", "--poll-s", "0.05", "--port"]
    mlflow = [str(Path(sys.executable).with_name("mlflow")), "models", "serve", "-m", f"models:/employment/{models[0]['version']}",
              "--env-manager", "local", "--workers", "1", "-p", str(ports[2])]  # fmt: skip
    return {
        "bare uvicorn answer": (python(RUN, ECHO, None, ports[0], root), ports[0], "/", one),
        "FastAPI + scikit-learn": (
            python(RUN, PLAIN, (models[0]["path"], kinds), ports[1], root),
            ports[1],
            "/predict",
            one,
        ),
        "mlflow models serve": (mlflow, ports[2], "/invocations", frame),
        "mlloop serve (log on disk)": ([*mlloop, str(ports[3])], ports[3], "/predict", one),
        "mlloop serve (log with the system)": (
            [*mlloop, str(ports[4]), "--durable", "process"],
            ports[4],
            "/predict",
            one,
        ),
    }


# ---------------------------------------------------------------------------------------------- load


def load(port: int, path: str, bodies: list[bytes], connections: int, seconds: float) -> dict:
    """Keep `connections` requests under way for `seconds`; requests a second, latency, and answers that were no 200."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ".encode()
    requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies]
    chosen, sent, took, failed, count = selectors.DefaultSelector(), {}, [], 0, 0

    def ask(one: socket.socket) -> None:
        nonlocal count
        sent[one] = time.perf_counter()
        one.sendall(requests[count % len(requests)])
        count += 1

    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chosen.register(one, selectors.EVENT_READ, bytearray())
        ask(one)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for key, _ in chosen.select(1):
            part = key.fileobj.recv(65536)
            key.data.extend(part)
            at = key.data.find(b"\r\n\r\n")
            if not part:
                raise RuntimeError("the server closed a connection")
            if at < 0 or len(key.data) < at + 4 + length(key.data[:at]):
                continue
            failed += not key.data.startswith(b"HTTP/1.1 200")
            key.data.clear()
            took.append(time.perf_counter() - sent[key.fileobj])
            ask(key.fileobj)
    elapsed = time.perf_counter() - began
    for key in list(chosen.get_map().values()):
        key.fileobj.close()
    took.sort()
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] * 1000
    return {"rps": len(took) / elapsed, "p50": at(0.5), "p99": at(0.99), "failed": failed, "n": len(took)}


def durable_ms(folder: Path, times: int = 60) -> float:
    """How long the disk takes for one durable write, now (median, ms): no acknowledgement can be quicker."""
    file, took = os.open(folder / "durable", os.O_RDWR | os.O_CREAT), []
    os.pwrite(file, bytes(times * 600), 0)
    os.fsync(file)
    for turn in range(times):
        began = time.perf_counter()
        os.pwrite(file, b"x" * 600, turn * 600)
        os.fdatasync(file)
        took.append(time.perf_counter() - began)
    os.close(file)
    return statistics.median(took) * 1000


def length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0])


def swaps(settings, models, port: int, bodies: list[bytes], turns: int) -> dict:
    """Promotion and rollback in turn while 4 connections ask; how many requests were answered and how many failed."""
    import httpx

    from mlloop import deployment
    from mlloop.store.ledger import Ledger

    ledger, done, seen = Ledger.open(settings), threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            seen.append(load(port, "/predict", bodies, 4, 1.0))

    thread = threading.Thread(target=ask)
    thread.start()
    client, waited = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30), []
    for turn in range(turns):
        if turn % 2 == 0:
            deployment.promote(settings, ledger, "employment", models[1]["digest"], models[1]["release"])
        else:
            deployment.rollback(settings, ledger, "employment")
        now, began = ledger.champion("employment").model[:12], time.monotonic()
        while client.get("/ready").json()["problems"]["employment"]["champion"] != now:
            time.sleep(0.01)
        waited.append(time.monotonic() - began)
    done.set()
    thread.join()
    return {"turns": turns, "answered": sum(one["n"] for one in seen), "failed": sum(one["failed"] for one in seen),
            "swap_s": statistics.median(waited), "p99": max(one["p99"] for one in seen)}  # fmt: skip


# ---------------------------------------------------------------------------------------------- the table


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--seconds", type=float, default=4)
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--swaps", type=int, default=100)
    given = given.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        settings, models, asked, kinds = prepare(root)
        os.environ["MLFLOW_TRACKING_URI"] = settings.tracking_url
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        found: dict[tuple[str, int], list[dict]] = {}
        ready: dict[str, float] = {}
        disk: list[float] = []
        with contextlib.ExitStack() as stack:
            up = servers(root, models, kinds)
            for name, (command, port, _, _) in up.items():
                ready[name] = stack.enter_context(running(command, port, root))
            for connections in CONNECTIONS:
                for turn in range(given.rounds + 1):  # the first warms up
                    disk.append(durable_ms(root))
                    for name, (_, port, path, body) in up.items():
                        bodies = [body(row) for row in asked]
                        made = load(port, path, bodies, connections, given.seconds if turn else 1.0)
                        if turn:
                            found.setdefault((name, connections), []).append(made)
            bodies = [json.dumps(row).encode() for row in asked]
            swapped = swaps(settings, models, up["mlloop serve (log on disk)"][1], bodies, given.swaps)
        table(found, ready, models, swapped)
        print(f"a durable write of 600 bytes took {min(disk):.2f} to {max(disk):.2f} ms (medians before each round)")


def table(found, ready, models, swapped) -> None:
    middle = lambda name, connections, key: statistics.median(one[key] for one in found[name, connections])
    print(
        f"model: LightGBM as {models[0]['form']}, largest difference from the trained model {models[0]['parity']:.1g}\n"
    )
    print("| server | connections | requests/s | of the bare answer | against mlflow | p50 (ms) | p99 (ms) | failed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ready:
        for connections in CONNECTIONS:
            rounds = range(len(found[name, connections]))
            ratio = lambda to, c=connections, n=name, r=rounds: statistics.median(
                found[n, c][i]["rps"] / found[to, c][i]["rps"] for i in r
            )
            failed = sum(one["failed"] for one in found[name, connections])
            print(
                f"| {name} | {connections} | {middle(name, connections, 'rps'):,.0f} | {ratio('bare uvicorn answer'):.2f} "
                f"| {ratio('mlflow models serve'):.1f} | {middle(name, connections, 'p50'):.1f} "
                f"| {middle(name, connections, 'p99'):.1f} | {failed} |"
            )
    print("\nseconds to the first connection: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in ready.items()))
    print(
        f"\n{swapped['turns']} hot swaps under load: {swapped['failed']} of {swapped['answered']:,} requests failed; "
        f"a swap is seen after {swapped['swap_s'] * 1000:.0f} ms; worst p99 of a second {swapped['p99']:.0f} ms"
    )


if __name__ == "__main__":
    main()
