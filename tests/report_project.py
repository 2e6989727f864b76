"""A small project whose stages have run, for tests of its pages; every text in it goes through `say`."""

import base64
import datetime as dt
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from mlloop import problem as problems
from mlloop.core import forms, settings, storage
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

HERE = Path(__file__).parent.parent
MODEL = "9f" * 32
POLICY = {
    "every_days": 7,
    "k": 3,
    "n": 5,
    "standard_errors": 2.0,
    "margin": 0.005,
    "cooldown_days": 21,
    "budget_per_year": 12,
}
TRIAL = {"share": 0.2, "min_rows": 200, "deadline_days": 21, "max_loss": 0.01}


def png(width: int = 40, height: int = 20, noise: bool = False) -> bytes:
    """A picture of its own making: grey, or noise that does not compress."""
    import random

    row = (
        (lambda: b"\x00" + random.Random(7).randbytes(width * 3)) if noise else (lambda: b"\x00" + b"\x80" * width * 3)
    )
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = random.Random(11).randbytes((width * 3 + 1) * height) if noise else row() * height
    if noise:
        rows = b"".join(b"\x00" + rows[i * width * 3 : (i + 1) * width * 3] for i in range(height))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "execution_count": None,
        "outputs": list(outputs),
    }


def shown(**forms) -> dict:
    named = {form.replace("__", "+").replace("_", "/", 1): value for form, value in forms.items()}
    return {"output_type": "display_data", "metadata": {}, "data": named}


def notebook(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def table(*rows: tuple, columns: tuple[str, ...] = ("name", "value")) -> str:
    """A table as pandas writes one."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=list(columns)).set_index(columns[0]).to_html()


def run_cells(say: Callable[[str], str]) -> list[dict]:
    """A Run act with every form of output."""
    picture = base64.b64encode(png()).decode()
    raw = say("words")
    return [
        markdown("## Run\n\nWhat this run answers."),
        code("#| pipeline\nproblem = 'shop'", tags=("parameters",)),
        code("problem = '/somewhere/secret'", tags=("injected-parameters",)),
        code("#| pipeline\nfrom mlloop.analysis import describe"),
        markdown("Which columns say something? " + say("prose")),
        code(
            "#| pipeline\ndescribe(rows)  # " + say("comment"),
            shown(text_html=table(("price_eur", 1234.5), (raw, 0.25), columns=("name", raw)), text_plain="a table"),
            shown(text_html=f"<table><tr><td onclick='document.title=1'>{raw}</td></tr></table>"),
            shown(text_markdown=f"*{raw}* [a link](javascript:document.title=1) ![p](https://example.org/p.png)"),
            shown(image_png=picture, text_plain="<Figure size 640x480 with 1 Axes>"),
            shown(
                image_svg__xml=f"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='20'><title>{raw}</title></svg>"
            ),
            shown(text_plain=raw),
            {"output_type": "stream", "name": "stdout", "text": raw + "\n"},
            {"output_type": "error", "ename": "DataError", "evalue": raw, "traceback": ["\x1b[31m" + raw + "\x1b[0m"]},
        ),
    ]


def products(say: Callable[[str], str]) -> dict[str, dict]:
    """What each stage's product holds, in the form the stages write it."""
    stated = problems.load(HERE / "problems" / "shop.yaml").model_dump(mode="json")
    statement = stated | {
        "revision": 2,
        "question": say("Which ten products?"),
        "decision": say("What to show."),
        "owner": say("Sales"),
        "time": stated["time"] | {"holdout_days": 14, "label_delay_days": 7},
        "success": stated["success"] | {"min_slice_rows": 100},
        "retrain": stated["retrain"] | POLICY,
        "canary": TRIAL,
    }
    found = [
        {
            "name": say("ndcg"),
            "value": 0.134,
            "unit": say("share"),
            "low": 0.12,
            "high": 0.15,
            "threshold": 0.1,
            "passed": True,
        },
        {"name": "latency", "value": 80, "unit": "ms", "low": None, "high": None, "threshold": 50, "passed": False},
    ]
    verdict = lambda gate, word: {
        "gate": gate,
        "verdict": word,
        "reasons": [say("it pays")],
        "must_change": [say("a threshold")],
        "evidence": found,
        "deciding": say("ndcg"),
    }
    tables = {say("rows"): {"name": say("shop/rows"), "uri": "u", "version": 3, "rows": 1200, "digest": say("ab") * 3}}
    spread = {"value": 0.02, "low": 0.01, "high": 0.03, "n": 1820}
    inside = {key: spread[key] for key in ("value", "low", "high")}
    windows = {
        "as_of": "2025-06-30T00:00:00",
        "from": "2025-03-03T00:00:00",
        "train_until": "2025-06-16T00:00:00",
        "holdout_from": "2025-06-16T00:00:00",
        "holdout_until": "2025-06-30T00:00:00",
        "folds": [],
    }
    batch = {
        "path": "raw/a",
        "digest": "ab",
        "rows": 1200,
        "format": "csv",
        "origin": say("a.csv"),
        "source_digest": "cd",
    }
    candidate = {
        "name": say("knn"), "kind": "model", "meaning": say("x"), "complexity": 1, "params": {}, "folds": [0.13], "mean": 0.13,
        "low": 0.12, "high": 0.14, "n": 1820, "behind": inside,
    }  # fmt: skip
    recipe = {"name": say("knn"), "params": {say("k"): say("50")}, "seed": 0, "digest": "ef"}
    registered = {"name": say("shop"), "version": 1, "digest": MODEL, "form": say("skops")}
    against = [
        {"name": "model", "kind": "model", "meaning": "", "metric": {"value": 0.134, "low": 0.12, "high": 0.15, "n": 1820},
         "worth": spread},
        {"name": say("best_sellers"), "kind": "rule", "meaning": say("x"), "metric": spread, "worth": spread, "gain": spread,
         "more_worth": spread},
    ]  # fmt: skip
    figure = [
        {
            "name": say("ndcg"),
            "label": say("ndcg"),
            "value": 0.134,
            "low": 0.12,
            "high": 0.15,
            "n": 1820,
            "unit": say("share"),
        }
    ]
    need = {
        "task": "recommendation", "metric": "ndcg", "data": {"rows": 1200}, "contenders": [], "model": "cheap_model",
        "best_rule": say("best_sellers"), "best_paying": say("best_sellers"), "gain": {**spread, "folds": [0.02]},
        "more_worth": spread, "left_out": [], "timeless": False,
    }  # fmt: skip
    made = {
        "problem": {"problem": statement, "as_of": "2025-06-30T00:00:00", "sample": 1.0, "seed": 0},
        "collection": {"batches": {say("clicks"): [batch]}},
        "ingestion": {
            "tables": tables,
            "rejected": tables,
            "counts": {say("clicks"): {"read": 1200, "kept": 1100, "rejected": 90, "duplicates": 10}},
            "schema_changes": [],
        },
        "transformation": {"tables": tables, "windows": windows, "changes": []},
        "analysis": {
            "finding": say("Weekends differ."), "facts": {"columns": [], "rows": 1200, "sampled": 1200}, "findings": [say("x")],
        },
        "visualization": {"facts": {"health": []}},
        "need_gate": {"verdict": verdict("need", "yes"), "figures": need},
        "features": {
            "kind": "recommendation",
            "tables": tables,
            "windows": windows,
            "features": [say("age")],
            "catalogue": [{"name": say("age"), "meaning": say("age"), "unit": "d", "source": say("events")}],
            "left_out": [],
            "definition": "ab",
            "changed_by_the_future": [],
        },
        "exploration": {
            "metric": "ndcg", "candidates": [candidate], "trials": [], "stopped": [], "chosen": {"name": say("knn"), "params": {}},
        },
        "building": {"estimator": recipe, "type": say("mlloop.Knn")},
        "training": {
            "model": {"name": say("knn"), "path": "p", "digest": MODEL, "form": say("skops"), "recipe": recipe, "registered": registered},
            "trained": {"rows": 1100, "from": "2025-03-03T00:00:00", "until": "2025-06-16T00:00:00"},
            "features": [say("age")],
            "definition": "ab",
        },
        "evaluation": {
            "model": MODEL,
            "main": against[0]["metric"],
            "metrics": figure,
            "slices": [
                {"slice": say("activity"), "group": say("new"), "value": 0.1, "low": None, "high": None, "n": 9, "gap": None}
            ],
            "slices_missing": [],
            "contenders": against,
            "best_rule": 1,
            "champion": {"said": say("There is no champion."), "digest": None, "gain": None},
            "latency": {"p50_below_ms": 10, "p99_below_ms": 20, "calls": 100},
            "tables": {},
            "reference": {"windows": windows},
            "examples": {"users": ["u"], "answers": [["i"]]},
        },
        "validation_gate": {
            "verdict": verdict("validation", "maybe"), "model": MODEL, "asked": {"asked": 1, "same": 1, "said": ""},
        },
    }  # fmt: skip
    return {stage: {"stage": stage, "version": forms.VERSIONS[stage], **content} for stage, content in made.items()}


def empty(root: Path) -> settings.Settings:
    """A project with its settings and pipeline, and no problem."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("settings.ini", "pipeline.yaml", "env.yaml"):
        shutil.copy(HERE / name, root / name)
    (root / "problems").mkdir(exist_ok=True)
    (root / "nbs").mkdir(exist_ok=True)
    return settings.load(root)


def run(
    root: Path, say: Callable[[str], str] = str, until: str = "validation_gate", problem: str = "shop"
) -> settings.Settings:
    """A project whose stages ran up to `until`, and whose gates are in its ledger."""
    places = empty(root)
    shutil.copy(HERE / "problems" / "shop.yaml", root / "problems" / f"{problem}.yaml")
    made = products(say)
    for stage, product in made.items():
        folder = places.state / "products" / problem
        storage.write_json(folder / f"{stage}.json", product)
        storage.write_json(folder / f"{stage}.ipynb", notebook(*run_cells(say)))
        record = {"stage": stage, "seconds": 1.25, "finished_at": "2026-11-23T14:05:09", "rows": 1200}
        storage.write_json(places.state / "records" / problem / f"{stage}.json", record)
        if stage.endswith("_gate"):
            verdict = product["verdict"]
            Ledger.open(places).append(
                Entry(
                    "gate",
                    problem,
                    subject=stage.removesuffix("_gate"),
                    verdict=verdict["verdict"],
                    reasons=verdict["reasons"],
                    evidence=verdict["evidence"],
                    actor=say("policy"),
                    model=MODEL if stage == "validation_gate" else None,
                    details={"deciding": verdict["deciding"]},
                )
            )
        if stage == until:
            break
    return places


def looked(say: Callable[[str], str], week: int, health: str = "ok") -> dict:
    """What monitoring saw in the week that ends `week` weeks after 2025-06-30."""
    moment = lambda weeks: (dt.datetime(2025, 6, 30) + dt.timedelta(weeks=weeks)).isoformat()
    period = lambda weeks: {"from": moment(weeks - 1), "until": moment(weeks)}
    figure = lambda value: {"value": value, "low": value - 0.02, "high": value + 0.02, "se": 0.01, "n": 1820}
    reference = figure(0.134)
    drifted = {"name": say("age"), "method": say("js"), "value": 0.2, "threshold": 0.1, "alert": True}
    broken = [
        {
            "table": say("clicks"), "column": say("device"), "kind": say("unseen"), "value": 0.25, "threshold": 0.01,
            "said": say("a quarter of the devices were never seen"),
        }
    ]  # fmt: skip
    return {
        "stage": "monitoring",
        "version": forms.VERSIONS["monitoring"],
        "problem": "shop",
        "as_of": moment(week),
        "period": period(week),
        "model": MODEL,
        "since": moment(0),
        "rows": 2000 + week,
        "feed": {"status": "ok", "findings": broken if week % 2 else [], "rows": {say("clicks"): 2000}},
        "drift": {
            "columns": [drifted],
            "rows": 2000,
            "left_out": [],
            "said": say("1 of 1 columns drifted."),
            "distributions": [
                {
                    "name": say("age"),
                    "bins": [
                        {"label": say("18 to 40"), "reference": 0.75, "period": 0.25},
                        {"label": say("40 to 90"), "reference": 0.25, "period": 0.5},
                    ],
                    "missing_reference": 0.0,
                    "missing_period": 0.25,
                    "unseen": 0.125,
                }
            ],
        },
        "estimated": {
            "metric": say("roc_auc"),
            "reference": reference,
            "methods": {"cbpe": figure(0.12 - week / 1000), say("pape"): figure(0.11)},
            **{key: value for key, value in figure(0.12 - week / 1000).items() if key != "n"},
            "spread": 0.001,
            "unreached": 0.0,
            "worse_by": 0.01,
            "standard_errors": 1.0,
            "trusted": True,
            "why": say("It was right before."),
        },
        "realised": [
            {
                "period": period(w),
                "model": MODEL,
                **figure(0.13 - w / 100),
                "n": 900,
                "labels_missing": 0.05,
                "reference": reference,
                "worse_by": 0.01,
                "standard_errors": 1.0,
                "trusted": True,
                "why": "",
                "estimated_then": 0.12,
            }
            for w in range(1, week)
        ],
        "latency": {"p50_ms": 2.0, "p99_ms": 9.5, "limit_ms": 50, "n": 2000},
        "errors": {"n": 2, "share": 0.001},
        "calibration": {
            "period": period(1),
            "groups": [{"predicted": 0.3, "observed": 0.32, "low": 0.2, "high": 0.4, "n": 90}],
        },
        "explains": {
            "features": [drifted | {"weight": 0.5, "explains": 0.1, "alerts_before": 3}],
            "segments": [
                {"slice": say("activity"), "group": say("new"), "value": 0.1, "n": 90, "worse_by": 0.03, "reference": 0.134,
                 "standard_errors": 2.0, "by": "labels"}
            ],
        },
        "health": health,
        "said": say("It does as well as it promised."),
        "alert": False,
    }  # fmt: skip


def live(
    places: settings.Settings, say: Callable[[str], str] = str, weeks: int = 4, with_notebook: bool = False
) -> settings.Settings:
    """The project of `run` with its model in production, looked at for some weeks, each look decided on."""
    ledger = Ledger.open(places)
    ledger.append(
        Entry(
            "promotion",
            "shop",
            model=MODEL,
            expect=None,
            reasons=[say("nobody answered yet")],
            actor=say("Ada"),
            details={"as_of": "2025-06-30"},
        )
    )
    for week in range(1, weeks + 1):
        product = looked(say, week, "watch" if week == weeks else "ok")
        folder = places.state / "monitoring" / "shop"
        storage.write_json(folder / f"{product['as_of'][:10]}.json", product)
        if with_notebook:
            storage.write_json(folder / f"{product['as_of'][:10]}.ipynb", notebook(*run_cells(say)[:-1]))
        ledger.append(
            Entry(
                "retrain",
                "shop",
                subject="nothing" if week < weeks else "watch",
                verdict="no" if week < weeks else "maybe",
                reasons=[say("it does as well as it promised")],
                evidence=[
                    {"name": say("worse by"), "value": 0.01, "unit": say("ndcg"), "threshold": 0.005, "passed": False}
                ],
                model=MODEL,
                details={"as_of": product["as_of"], "change": say("three of five")},
            )
        )
    return places
