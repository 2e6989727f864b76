"""`mlloop.open()`: whatever the command line does can be done in Python, on one object, with the same result."""

import dataclasses
import doctest
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import typer.main
from conftest import write_project
from production import Production

import mlloop
from mlloop.cli.app import app
from mlloop.core import storage
from mlloop.core.errors import DataError, ModelError, ProblemError, ProjectNotFound, UsageError
from mlloop.export.exporters import EXPORTERS
from mlloop.pipeline.runner import Outcome
from mlloop.project import InProduction, Monitored, Project, Reasons, Status
from mlloop.service import batch, models_in_use
from mlloop.service import champion as champions
from mlloop.store.lake import Lake

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Production:
    """A project of five stages that ran to the end, a champion for each of its two problems, and a table."""
    root = tmp_path_factory.mktemp("door") / "loans"
    made = Production(root, make=True)
    statements = {path: path.read_text() for path in (root / "problems").iterdir()}
    write_project(root)
    for path, text in statements.items():
        path.write_text(text)
    made.deploy(made.train())
    made.deploy(made.train_shop())
    Lake(made.settings).write("loan/loans", pd.DataFrame({"amount": [1.0, 2.0, 6.0]}))
    assert Project(root).run("loan", pages=False).error is None
    return made


@pytest.fixture
def door(made, monkeypatch) -> Project:
    monkeypatch.chdir(made.root)
    return mlloop.open()


@pytest.fixture
def rows(made) -> pd.DataFrame:
    """Three rows of a request, under an index of their own."""
    return made.rows[["amount", "age", "town", "job"]].iloc[:3].set_axis(["L0-0", "L0-1", "L0-2"])


# ------------------------------------------------------------------------------------------- the door


def test_importing_mlloop_loads_no_front_door_until_it_is_asked_for():
    code = "import sys, mlloop; before = 'mlloop.project' in sys.modules; mlloop.open; print(before, 'mlloop.project' in sys.modules, "
    code += "[m for m in ('pandas', 'sqlalchemy', 'pydantic', 'yaml', 'ibis') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True []"


def test_the_front_door_is_no_part_of_what_a_stage_depends_on(tmp_path):
    from mlloop.pipeline.freshness import Modules

    reached = Modules(tmp_path).closure("from mlloop.core.storage import load_product")
    assert "mlloop" in reached and "mlloop.project" not in reached


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        mlloop.opne  # noqa: B018
    assert {"open", "Project", "__version__"} <= set(dir(mlloop))


def test_open_finds_the_project_above(made, monkeypatch, tmp_path):
    assert mlloop.open(made.root / "problems").root == made.root
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectNotFound, match="mlloop new"):
        mlloop.open()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_its_counterpart_in_python_with_every_option(command):
    several = {
        "ledger": (Project.check_ledger, Project.copy_ledger),
        "maintain": (Project.maintain, Project.back_up, Project.restore),
    }
    methods = several.get(command) or (getattr(Project, command),)
    method = {name for one in methods for name in inspect.signature(one).parameters}
    renamed = {
        ("run", "from"): "start",
        ("loop", "from"): "since",
        ("new", "dir"): "folder",
        ("ingest", "source"): "sources",
        ("ingest", "metrics_host"): "metrics",
        ("ingest", "metrics_port"): "metrics",
    } | {(name, "set"): "changes" for name in ("run", "gate", "status", "why")}
    only_printed, elsewhere = {"json", "action", "yes", "all", "quiet"}, {("backtest", "list"): Project.policies}
    elsewhere |= {("maintain", "what"): Project.erase}  # COLUMN=VALUE, or a copy's folder
    # a release by itself has no project
    elsewhere |= {("predict", name): batch.score_alone for name in ("release", "log_folder")}
    elsewhere |= {("serve", name): models_in_use.InFolders for name in ("release", "log_folder")}
    for parameter in COMMANDS[command].params:
        option = max(parameter.opts, key=len).lstrip("-").replace("-", "_")
        name = renamed.get((command, option), option)
        assert option in only_printed or name in method or (command, option) in elsewhere, (
            f"mlloop {command} --{option}"
        )


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_every_export_of_the_command_line_has_its_options_in_python(name):
    chosen = {field.name for field in dataclasses.fields(EXPORTERS[name].module.Options)}
    typed = {
        max(parameter.opts, key=len).lstrip("-").replace("-", "_")
        for parameter in COMMANDS["export"].commands[name].params
    }
    assert typed - {"problem", "out"} <= chosen and sorted(COMMANDS["export"].commands) == sorted(EXPORTERS)


def test_every_example_of_the_front_door_shows_what_it_gives(made, rows, monkeypatch):
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("COLUMNS", "200")
    finder, runner = (
        doctest.DocTestFinder(exclude_empty=True),
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE),
    )
    said: list[str] = []
    for module in (sys.modules["mlloop.project"], champions):
        for test in finder.find(module, globs={}):
            test.globs |= {"project": mlloop.open(), "rows": rows, "mlloop": mlloop}
            runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).attempted > 20
    assert not said, "".join(said)


# ------------------------------------------------------------------------------------------- what it gives


def test_a_champion_predicts_as_the_service_and_the_batch_do(made, door, rows):
    champion = door.champion("loan")
    predicted = champion.predict(rows)
    assert list(predicted.index) == list(rows.index) and list(predicted) == ["score", "prediction"]
    with made.serve("--problem", "loan") as served:
        for at, row in rows.iterrows():
            asked = {name: value for name, value in row.items() if value == value}
            answer = served.ask(asked).json()
            assert (answer["score"], answer["prediction"]) == tuple(predicted.loc[at])
            assert answer["model"] == champion.model[:12]
    rows.to_csv(made.root / "rows.csv", index=False)
    done = made.mlloop("predict", "rows.csv", "--problem", "loan", "--out", "scored.csv", "--no-log")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(made.root / "scored.csv")["score"].tolist() == pytest.approx(predicted["score"].tolist())


def test_a_champion_says_who_it_is(made, door):
    champion = door.champion("loan")
    row = made.ledger.champion("loan")
    assert (champion.model, champion.since, champion.version) == (row.model, row.at, None)
    assert champion.model[:12] in repr(champion) and champion.model[:12] in champion._repr_html_()


def test_the_version_of_a_champion_is_that_of_its_own_training(made, door):
    path = made.settings.state / "products" / "loan" / "training.json"
    before = storage.read_json(path)
    try:
        model = {"digest": door.champion("loan").model, "name": "linear", "registered": {"version": 7}}
        storage.write_json(path, {**before, "model": model})
        assert (door.champion("loan").version, door.champion("loan").name) == (7, "linear")
        storage.write_json(path, {**before, "model": {**model, "digest": "f" * 64}})  # another was trained since
        assert door.champion("loan").version is None
    finally:
        storage.write_json(path, before)


def test_a_column_that_is_missing_is_named(made, tmp_path, rows):
    other = made.copy(tmp_path / "copy")
    project = Project(other.root)
    (other.root / "problems/loan.yaml").write_text((other.root / "problems/loan.yaml").read_text())
    champion = project.champion("loan")
    champion.release.fields = [type(f)(**{**vars(f), "required": f.name == "amount"}) for f in champion.release.fields]
    for ask in (champion.predict, champion.features):
        with pytest.raises(DataError, match=r"lacks amount \(has: age, town, job\)"):
            ask(rows.drop(columns="amount"))


def test_rows_that_break_the_contract_are_refused_by_name_or_left_empty(door, rows):
    broken = rows.assign(amount=[10.0, -5.0, 20.0])
    for ask in (door.champion("loan").predict, door.champion("loan").features):
        with pytest.raises(DataError, match="1 of 3 rows break the request's contract: row 1: amount"):
            ask(broken)
    kept = door.champion("loan").predict(broken, errors="coerce")
    assert kept["score"].isna().tolist() == [False, True, False]


def test_the_features_are_the_columns_that_the_model_reads(door, rows):
    seen = door.features("loan", rows)
    assert list(seen) == [one.name for one in door.champion("loan").release.features]
    assert seen.index.equals(rows.index) and seen["amount"].tolist() == rows["amount"].tolist()


def test_a_recommender_recommends_and_says_so_when_asked_to_predict(door, rows):
    champion = door.champion("shop")
    shown = champion.recommend(["u3", "nobody"], k=3, exclude=["i00"])
    assert shown.groupby("user", sort=False)["rank"].apply(list).to_dict() == {"u3": [1, 2, 3], "nobody": [1, 2, 3]}
    assert "i00" not in set(shown["item"])
    assert champion.recommend("u3")["item"].tolist() == champion.recommend(["u3"])["item"].tolist()
    with pytest.raises(UsageError, match=r"cannot predict(.|\n)*recommend"):
        champion.predict(rows)
    with pytest.raises(UsageError, match=r"cannot recommend(.|\n)*predict"):
        door.champion("loan").recommend(["u3"])
    with pytest.raises(DataError, match="k: Input should be less than"):
        champion.recommend(["u3"], k=100_000)


def test_without_a_champion_the_next_step_is_told(project):
    with pytest.raises(ModelError, match="no model is in production\nPut one there: mlloop run --problem loan"):
        Project(project.root).champion()


@pytest.mark.parametrize(
    "ask", ["run", "status", "champion", "evaluation", "monitoring", "tick", "promote", "statement"]
)
def test_an_unknown_problem_is_told_with_what_was_meant(door, ask):
    with pytest.raises(ProblemError, match=r"no problem 'laon'(.|\n)*Did you mean 'loan'"):
        getattr(door, ask)("laon")


def test_an_unknown_table_is_told_with_those_there_are(door):
    with pytest.raises(UsageError, match=r"no table 'loan/laons' \(known: loan/loans\). Did you mean 'loan/loans'"):
        door.table("loan/laons")


def test_a_time_that_is_none_is_told_by_its_name(door):
    with pytest.raises(UsageError, match="until is 'soon', which is not a time"):
        door.loop("loan", until="soon")


def test_evaluation_has_units_and_intervals(made, door):
    path = made.settings.state / "products" / "loan" / "evaluation.json"
    before = storage.read_json(path)
    figure = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}
    try:
        storage.write_json(path, {
            **before, "metrics": [{"name": "roc_auc", "label": "ROC AUC", "unit": "", **figure}],
            "slices": [{"slice": "town", "group": "Ely", **figure}], "latency": {"p99_below_ms": 5.0, "calls": 100},
            "contenders": [{"name": "small", "kind": "rule", "metric": {**figure, "value": 0.6}, "gain": None}],
        })  # fmt: skip
        found = door.evaluation("loan").set_index("name")
    finally:
        storage.write_json(path, before)
    assert found["part"].to_dict() == {
        "roc_auc": "metric",
        "town = Ely": "slice",
        "small": "contender",
        "p99": "latency",
    }
    assert found.loc["roc_auc", ["value", "low", "high", "n"]].tolist() == [0.8, 0.7, 0.9, 50]
    assert found.loc["p99", ["value", "unit"]].tolist() == [5.0, "ms"] and found.loc["small", "value"] == 0.6


def test_evaluation_before_the_stage_ran_names_the_command(project):
    with pytest.raises(UsageError, match="mlloop run --problem loan --until evaluation"):
        Project(project.root).evaluation()


def test_monitoring_is_a_row_a_period_with_what_labels_showed_later(made, door):
    from report_project import looked

    folder = made.settings.state / "monitoring" / "loan"
    assert door.monitoring("loan").empty
    try:
        for week in (1, 2, 3):
            product = looked(str, week, "watch" if week == 3 else "ok")
            storage.write_json(folder / f"{week}.json", {**product, "stage": "loan monitoring"})
        found = door.monitoring("loan")
    finally:
        for path in folder.glob("*.json"):
            path.unlink()
    assert found.index.is_monotonic_increasing and found["health"].tolist() == ["ok", "ok", "watch"]
    # the labels of the first two periods had come by the third
    assert found["realised"].tolist()[:2] == pytest.approx([0.12, 0.11]) and pd.isna(found["realised"].iloc[2])
    assert found["realised_low"].iloc[0] == pytest.approx(0.10) and found["drifted_columns"].tolist() == [1, 1, 1]


def test_decisions_are_the_ledger_with_the_figure_that_decided(made, door):
    found = door.decisions(kind="gate")
    assert set(found["kind"]) == {"gate"} and found.index.tolist() == [row.id for row in made.ledger.rows(kind="gate")]
    need = found[found["subject"] == "need"].iloc[-1]
    assert (need["figure"], need["value"], need["threshold"]) == ("rows", 3.0, 3.0)
    with pytest.raises(UsageError, match="Did you mean 'gate'"):
        door.decisions(kind="gates")


# ------------------------------------------------------------------------------------------- the same as the command


def test_run_gives_what_the_command_gives(project):
    outcome = Project(project.root).run("loan")
    done = project.run("--problem", "loan")
    assert outcome.error is None and done["fresh"] == outcome.ran and done["verdicts"] == outcome.verdicts
    assert (project.root / "reports/index.html").exists()


def test_changes_reach_the_stages_also_where_they_name_the_problem(project):
    outcome = Project(project.root).run(changes={"problem": "loan", "seed": 3}, until="problem", pages=False)
    assert outcome.ran == ["problem"] and project.product("problem")["seed"] == 3


def test_a_run_from_another_folder_is_the_same_run(project, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Project(project.root).run("loan", pages=False).error is None
    assert project.run("--problem", "loan")["ran"] == []


def test_a_closed_gate_is_an_outcome_not_an_exception(project):
    project.write("loans.csv", "amount\n1\n2\n")
    outcome = Project(project.root).run(pages=False)
    assert (outcome.exit_code, outcome.verdicts["need"]["verdict"]) == (3, "no")


def test_promote_and_rollback_do_what_the_commands_do(made, tmp_path):
    other = made.copy(tmp_path / "copy")
    project = Project(other.root)
    first = project.in_production("loan").champion
    second = other.train(rows=slice(100, 700))
    other.deploy(second)
    now = project.promote("loan", second["digest"][:12], reason="agreed", by="Ada")
    assert now == InProduction("loan", second["digest"], None, None, first)
    row = project.log("loan", kind="promotion")[-1]
    assert (row.actor, row.reasons) == ("Ada", ["agreed"])
    assert project.rollback("loan").champion == first
    assert json.loads(other.mlloop("at", "--json").stdout)["loan"]["champion"]["model"] == first


def test_check_and_debug_work_from_another_folder(project, monkeypatch, tmp_path):
    project.write("loans.csv", "amount,repaid\n1,1\n2,0\n3,0\n")
    monkeypatch.chdir(tmp_path)
    opened = Project(project.root)
    assert any("5 stages, gates: need_gate" in line for line in opened.check())
    assert opened.debug("problem").exists()
    with pytest.raises(UsageError, match="known: airflow"):
        opened.export("cron")


# ------------------------------------------------------------------------------------------- in JupyterLab


def test_everything_shows_itself_in_a_notebook_and_escapes_what_it_shows(made, tmp_path, monkeypatch):
    other = made.copy(tmp_path / "copy")
    statement = other.root / "problems/loan.yaml"
    statement.write_text(statement.read_text().replace("Who repays?", "Who <script>repays</script>?"))
    project = Project(other.root)
    from report_project import looked

    outcome = Outcome("<script>", ran=["training"], verdicts={"need": {"verdict": "no"}}, error=UsageError("<script>"))
    shown = [
        outcome,
        project, project.champion("loan"), project.status("loan"), project.in_production("loan"), project.why("training", "loan"),
        Monitored("loan", pd.Timestamp("2025-07-07").to_pydatetime(), looked(str, 1), Path("x.ipynb")),
        Reasons("<script>", "loan", None, project.log("loan")), Status("loan", {"<script>": {"state": "fresh", "reasons": []}}),
    ]  # fmt: skip
    for one in shown:
        page = one._repr_html_()
        assert "<table" in page and "<script" not in page, one
    assert project.in_production("loan").champion[:12] in project._repr_html_()


def test_a_project_with_a_broken_statement_still_shows_itself(project):
    project.write("problems/loan.yaml", "name: loan\n")
    assert "loan.yaml" in Project(project.root)._repr_html_()


def test_opened_in_ipython_statements_and_decisions_show_as_tables(made):
    code = "from IPython.core.interactiveshell import InteractiveShell as S; s = S.instance(); import mlloop; p = mlloop.open();"
    code += "f = s.display_formatter.formatters['text/html']; print(f(p.statement('loan'))[:3], f(p.log()[0])[:3])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=made.root, capture_output=True, text=True, env={**os.environ, "IPYTHONDIR": str(made.root)}
    )  # fmt: skip
    assert done.stdout.split() == ["<p>", "<p>"], done.stderr
