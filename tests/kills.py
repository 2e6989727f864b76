"""Kills a process at each of its steps, for real: run as a program in a project, prints one JSON line a kill.

A step is whatever the process is about to do that another process could see: open a file for writing, rename, remove,
make a folder, or run an SQL statement. Python tells of the former by audit events, SQLite of the latter by a trace. The
child is forked, does the work of SCENARIO, and SIGKILLs itself before step N; then the same work is done again, as the
next start would. N runs until the child comes through alive.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from mlloop import deployment
from mlloop import problem as problems
from mlloop.core import settings
from mlloop.core.errors import PromotionRefused
from mlloop.release import releases
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

SEEN = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")


def die_before(step: int) -> Callable:
    """SIGKILL this process before its step number `step`; returns what SQLite tells of each statement."""
    count = 0

    def tick(*_) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in SEEN:
            tick()

    sys.addaudithook(hook)
    return tick


def work(scenario: str, root: Path, given: dict, tick: Callable | None = None) -> None:
    """What SCENARIO does, on the project at `root`; done again it changes nothing more."""
    here = settings.load(root)
    ledger = Ledger.open(here)
    if tick:
        sa.event.listen(ledger._engine, "connect", lambda connection, _: connection.set_trace_callback(tick))
    try:
        do(scenario, here, ledger, given)
    except PromotionRefused as error:
        if "champion already" not in str(error) and "the decision was taken against" not in str(error):
            raise


def do(scenario: str, here, ledger: Ledger, given: dict) -> None:
    loan = problems.load(here.root / "problems/loan.yaml")
    a, b = given["a"], given["b"]
    if scenario == "write":
        folder = Path(given["folder"])
        card = json.loads((folder / "release.json").read_text())
        releases.write(here, "loan", {**card, "k": 1}, {"model.onnx": (folder / "model.onnx").read_bytes()})
    elif scenario == "deploy":
        deployment.deploy(here, ledger, loan, *a)
    elif scenario == "canary":
        deployment.deploy(here, ledger, loan, *b)
    elif scenario == "promote":
        deployment.promote(here, ledger, "loan", *b, actor="ann", expect=a[0])
    elif scenario == "judge":
        deployment.judge(here, ledger, loan)
    elif scenario == "fallback":
        rule = given["rule"]
        ledger.append(
            Entry(
                "fallback",
                "loan",
                model=rule["model"],
                expect=a[0],
                digests={"model": rule["model"], "release": rule["release"]},
                details={"to": "rule", "name": rule["name"]},
                key="the turn's",
            )
        )
        deployment.follow(here, ledger)
    elif scenario == "rollback" and ledger.champion("loan").model == b[0]:
        deployment.rollback(here, ledger, "loan", actor="ann")


def stands(root: Path) -> dict:
    """What the ledger says, checked."""
    ledger = Ledger.open(settings.load(root))
    ledger.verify()
    rows = [row for row in ledger.rows() if row.kind != "gate"]
    champion, canary = ledger.champion("loan"), ledger.canary("loan")
    release = None
    if champion:
        release = deployment.load_release(settings.load(root), ledger, "loan", champion.model).digest
    return {
        "rows": [f"{row.kind} {row.subject if row.kind == 'canary' else ''}".strip() for row in rows],
        "champion": champion and champion.model,
        "canary": canary and canary.model,
        "release": release,
        "parts": len([p for p in (root / ".mlloop" / "releases").rglob("*.part*")]),
        "releases": len(list((root / ".mlloop" / "releases" / "loan").glob("[!.]*"))),
    }


def main(scenario: str, root: str, given: str) -> None:
    for step in range(1, 500):
        with tempfile.TemporaryDirectory() as place:
            copy = Path(shutil.copytree(root, Path(place, "project"), ignore=shutil.ignore_patterns("trained")))
            child = os.fork()
            if child == 0:
                try:
                    work(scenario, copy, json.loads(given), die_before(step))
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            _, status = os.waitpid(child, 0)
            killed = os.WIFSIGNALED(status)
            after = stands(copy)
            work(scenario, copy, json.loads(given))
            print(
                json.dumps({"step": step, "killed": killed, "status": status, "after": after, "end": stands(copy)}),
                flush=True,
            )
            if not killed:
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
