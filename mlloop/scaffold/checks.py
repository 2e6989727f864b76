"""What can be found wrong before anything runs, in seconds: no stage starts, and of the rows only those of each fold are counted."""

import ast
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from mlloop import problem as problems
from mlloop.core import extensions, parsing, revisions
from mlloop.core import settings as _settings
from mlloop.core.errors import MlloopError, ProblemError, SettingsError, SourceError, StageFailed
from mlloop.core.records import JsonObject
from mlloop.core.settings import Settings
from mlloop.data import whole_files
from mlloop.pipeline import runner
from mlloop.problem import Problem, Recommendation, Source, Table, did_you_mean
from mlloop.scaffold import fold_rows


def everything(root: Path | str | None = None) -> list[str]:
    """Check settings, statements, sources, pipeline, notebooks and what the project adds; returns what was found, one line each.

    Raises
    ------
    MlloopError
        The first thing that would fail.
    """
    settings = _settings.load(root)
    lines = [f"settings.ini: state in {settings.state}, engine {settings.engine}, kernels {settings.kernel_pool}"]
    files = [file for file in sorted(settings.problems.glob("*.yaml")) if not revisions.REVISION.search(file.stem)]
    if not files:
        raise SettingsError(
            "holds no problem statement", str(settings.problems), "Write one, or begin a project: mlloop new DIR"
        )
    statements = {file: problems.load(file) for file in files}
    _distinct_names(statements)
    for file, statement in statements.items():
        lines.append(
            f"{file.name}: {statement.task.kind}, {len(statement.tables)} tables, {len(statement.rules)} rules"
        )
    _libraries(settings, statements)
    _, plan = runner.project(files[0].stem, settings.root)
    runner.check_notebooks(list(plan.tasks.values()))
    gates = ", ".join(task.name for task in plan.tasks.values() if task.is_gate) or "none"
    lines.append(f"pipeline.yaml: {len(plan.tasks)} stages, gates: {gates}")
    wrong = [line for line in (out_of_step(path, settings) for path in _notebooks(settings, plan)) if line]
    if wrong:
        raise StageFailed("; ".join(wrong), str(settings.notebooks), "Export them: nbdev-export")
    lines.append("notebooks: their modules are what they export")
    lines += _own(settings, statements)
    for file, statement in statements.items():
        lines += _sources(file, statement, settings)
        expressions(file, statement)
        lines += fold_rows.of_statement(file, statement, settings)
    return [*lines, *_alerts(settings), *_ledger(settings)]


def _distinct_names(statements: dict[Path, Problem]) -> None:
    """No two statements have one name: their tables, their champion and their runs would be one."""
    files: dict[str, Path] = {}
    for file, statement in statements.items():
        if (first := files.setdefault(statement.name, file)) != file:
            raise ProblemError(
                f"has the name {statement.name!r}, as {first.name} has", str(file), "Give one of them another name"
            )


def _libraries(settings: Settings, statements: dict[Path, Problem]) -> None:
    """What a setting or a source asks for is installed: library, its extra, what asks for it, and where that stands."""
    ini = "settings.ini"
    uses = [("pyspark", "spark", "[engine] name = spark", ini)] if settings.engine == "spark" else []
    if settings.validation_engine == "great_expectations":
        uses.append(("great_expectations", "expectations", "[validation] engine = great_expectations", ini))
    if settings.predictions_brokers:
        uses.append(("confluent_kafka", "kafka", "[predictions] brokers", ini))
    if settings.ledger_url.startswith("postgres"):
        uses.append(("psycopg", "postgres", "[ledger] url", ini))
    for file, statement in statements.items():
        for name, source in statement.sources.items():
            if source.kind == "kafka":
                uses.append(("confluent_kafka", "kafka", "kind: kafka", f"{file}: sources.{name}"))
            elif (source.url or "").startswith(("postgresql://", "postgres://")):
                uses.append(("psycopg", "postgres", "a source in Postgres", f"{file}: sources.{name}"))
    for library, extra, use, where in uses:
        if importlib.util.find_spec(library) is None:
            message = f"{use} needs the library {library}, which is not installed"
            raise SettingsError(message, where, f"Install it: pip install 'mlloop[{extra}]'")


def _alerts(settings: Settings) -> list[str]:
    from mlloop.core import alert_channels

    receivers = alert_channels.addresses(settings)
    return [f"alerts: to {', '.join(receiver.shown for receiver in receivers)}; nothing was sent"] if receivers else []


def _ledger(settings: Settings) -> list[str]:
    from mlloop.store.ledger import Ledger

    head = Ledger.open(settings).verify()
    return [f"ledger: {head.id} decisions, the chain holds"]


# ---------------------------------------------------------------------------------------------- notebooks and modules


def _notebooks(settings: Settings, plan) -> list[Path]:
    return list(dict.fromkeys([*(task.source for task in plan.tasks.values()), *sorted(_below(settings.notebooks))]))


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]


def out_of_step(notebook: Path, settings: Settings) -> str | None:
    """What is wrong between a notebook and the module exported from it; None where they agree."""
    try:
        cells = [
            "".join(c["source"])
            for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"not a notebook: {error}", str(notebook), "Restore it, then: mlloop check") from error
    names = [cell.split("default_exp", 1)[1].split()[0] for cell in cells if cell.startswith("#| default_exp")]
    if not names:
        return None
    package = extensions.package(settings.root) or "mlloop"
    folder = settings.root / package.replace(".", "/")
    module = folder.joinpath(*names[0].split(".")).with_suffix(".py")
    inside = f"{package}.{names[0]}".rpartition(".")[0]
    if not module.exists():
        return None if not folder.exists() else f"{notebook.name} exports {names[0]}, which is not there"
    stated = [_body(cell, inside) for cell in cells if cell.startswith("#| export")]
    held = module.read_text(encoding="utf-8")
    parts = [
        _body("\n".join(part.split("\n")[1:]), inside)
        for part in held.split("\n# %% ")[1:]
        if not part.startswith("auto")
    ]
    return None if stated == parts else f"{notebook.name} differs from {module.relative_to(settings.root)}"


def _body(source: str, package: str) -> str:
    """Code without its directives, the relative imports that nbdev writes resolved against `package`."""
    text = "\n".join(line for line in source.split("\n") if not line.startswith("#|"))
    try:
        tree = parsing.tree(text)
    except SyntaxError:
        return text.strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            node.module, node.level = ".".join([*above, *([node.module] if node.module else [])]), 0
    return ast.dump(tree)


# ---------------------------------------------------------------------------------------------- what the project adds


def _own(settings: Settings, statements: dict[Path, Problem]) -> list[str]:
    """Import the project's own modules, and hold the names in the statements against what is registered."""
    brought = extensions.bring_in(settings.root)
    for file, statement in statements.items():
        _names(file, statement)
    declared = extensions.declared(settings.root)
    counts = {
        kind: sum(declaration.kind == kind for declaration in declared)
        for kind in dict.fromkeys(declaration.kind for declaration in declared)
    }
    words = {"cleaning": "cleaning rule", "rule": "business rule"}
    registered = ", ".join(f"{n} {words.get(kind, kind)}{'s' if n > 1 else ''}" for kind, n in counts.items())
    return [f"of its own: {registered or 'nothing yet'}"] if brought else []


def _names(file: Path, statement: Problem) -> None:
    references: list[tuple[str, JsonObject, str, str]] = [
        ("rule", extensions.RULES, r.function, f"rules: {r.name}") for r in statement.rules if r.function
    ]
    references += [
        ("check", extensions.CHECKS, name, f"tables.{table}.checks")
        for table, other_table in statement.tables.items()
        for name in other_table.checks
    ]
    for kind, known, name, at in references:
        if name not in known:
            what = f"{kind} {name!r} is not registered" + did_you_mean(name, known)
            raise ProblemError(
                what, f"{file}: {at}", f"Write it with the decorator own.{kind} and export it, then: mlloop check"
            )
    if statement.budget.candidates:
        from mlloop.models import candidates

        able = [c.name for c in candidates.candidates_for(statement.task.kind)]
        for name in statement.budget.candidates:
            if name not in able:
                what = f"candidate {name!r} is not there for {statement.task.kind}" + did_you_mean(name, able)
                raise ProblemError(what, f"{file}: budget.candidates", "Fix the statement, then: mlloop check")


# ---------------------------------------------------------------------------------------------- sources


def _sources(file: Path, statement: Problem, settings: Settings) -> list[str]:
    """Each source is there, and holds the columns that its tables declare; what is only reached over a network is left out."""
    lines = []
    for name, source in statement.sources.items():
        tables = {t: table for t, table in statement.tables.items() if table.source == name}
        if statement.simulator is not None or source.kind in ("http", "nannyml"):
            continue
        if source.kind == "kafka":
            lines.append(f"source {name}: {_topic(source, settings)}")
            continue
        columns, where = _files(source, settings, statement) if source.kind == "files" else _database(source, settings)
        if columns is None:
            continue
        for table, spec in tables.items():
            _has_columns(file, statement, table, spec, columns, where)
        lines.append(f"source {name}: {where}, {len(columns)} columns")
    return lines


def _topic(source: Source, settings: Settings) -> str:
    """What is known of a topic without a broker: that its schema can be used."""
    from mlloop import collection
    from mlloop.store import messages

    schema = collection.schema_path(source, settings)
    messages.decoder(schema, source.message, source.framed)
    by = f" by {os.path.relpath(schema, settings.root)}" if schema else ""
    return f"topic {source.topic}, {messages.form(schema)}{by}"


def _files(source: Source, settings: Settings, statement: Problem) -> tuple[list[str] | None, str]:
    from mlloop import collection, ingestion

    where = collection.resolve_location(source.path or "", settings, statement.name)
    files = collection.matching_files(source, settings, statement.name)
    if not files:
        folder = Path(where).parent
        near = sorted(beside.name for beside in folder.glob("*"))[:8] if folder.is_dir() else []
        there = f"the folder holds {', '.join(near)}" if near else "the folder is empty or not there"
        raise SourceError(
            f"no file matches ({there})",
            where,
            "Put the file there or fix sources in the statement, then: mlloop check",
        )
    newest = files[-1]
    form = collection.file_format(newest, source)
    if form in ("jsonl", *whole_files.LINES_OF):
        return None, ""
    raw = ingestion.RawFile(newest, form, newest.name, source)
    if source.encoding.lower().startswith("utf-16") and form == "csv":
        return None, ""
    return ingestion.header(
        raw
    ), f"{len(files)} file{'s' if len(files) > 1 else ''} ({os.path.relpath(newest, settings.root)})"


def _database(source: Source, settings: Settings) -> tuple[list[str] | None, str]:
    """The columns of a local database's table; others are left to the run."""
    from mlloop import collection

    url = collection.resolve_location(source.url or "", settings)
    if not url.startswith("sqlite:///"):
        return None, ""
    path = Path(url.removeprefix("sqlite:///").split("?")[0])
    if not path.is_file():
        raise SourceError(
            "there is no such database", str(path), "Put it there or fix sources in the statement, then: mlloop check"
        )
    if source.table is None:
        return None, ""
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    inspector = sa.inspect(engine)
    known = [*inspector.get_table_names(), *inspector.get_view_names()]
    if source.table not in known:
        raise SourceError(
            f"there is no table {source.table!r}" + did_you_mean(source.table, known),
            str(path),
            "Fix sources in the statement, then: mlloop check",
        )
    return [
        str(column["name"]) for column in inspector.get_columns(source.table)
    ], f"table {source.table} of {path.name}"


def _has_columns(file: Path, statement: Problem, table: str, spec: Table, columns: list[str], where: str) -> None:
    lost = [name for name, column in spec.columns.items() if name not in columns and not column.is_composed]
    needed = {
        *spec.key,
        spec.time,
        *(n for n, column in spec.columns.items() if column.required),
        *_needed(statement, table),
    }
    for name in lost:
        if name in needed:
            what = f"column {name!r} is not in {where}" + did_you_mean(name, columns)
            raise ProblemError(
                what, f"{file}: tables.{table}.columns", "Fix the statement or the file, then: mlloop check"
            )


def _needed(statement: Problem, table: str) -> set[str | None]:
    task = statement.task
    if isinstance(task, Recommendation):
        uses = {
            c
            for use in task.interactions
            if use.table == table
            for c in (use.user, use.item, use.time, use.kind_column)
        }
        return uses | ({task.items.item} if task.items and task.items.table == table else set())
    return {task.target, task.entity, statement.time.column} if task.table == table else set()


# ---------------------------------------------------------------------------------------------- SQL


def expressions(file: Path, statement: Problem) -> None:
    """Try the statement's SQL (derive, where, rules) on an empty table of the declared columns.

    Raises
    ------
    ProblemError
        An expression that is no SQL, or names a column that is not there.
    """
    task = statement.task
    if isinstance(task, Recommendation):
        return
    import duckdb

    columns = {n: _type(c.type) for join in task.joins for n, c in statement.tables[join.table].columns.items()}
    columns |= {n: _type(c.type) for n, c in statement.tables[task.table].columns.items()}
    for rule in statement.tables[task.table].cleaning:
        kind_of = {"number": "DOUBLE", "duration": "DOUBLE", "date": "TIMESTAMP"}.get(rule.rule)
        columns |= {n: kind_of for n in rule.columns if kind_of and n in columns}
        suffix = {"fill": "_missing", "outliers": "_outlier"}.get(rule.rule)
        columns |= {f"{n}{suffix}": "BOOLEAN" for n in rule.columns if suffix}
    unknown = any(step.rule not in problems.CLEANING_RULES for step in statement.tables[task.table].cleaning)
    with duckdb.connect(config={"enable_external_access": "false"}) as con:
        listed = ", ".join(f'"{_quoted(name)}" {kind}' for name, kind in columns.items())
        con.execute(f"CREATE TABLE rows ({listed})")
        for name, sql in task.derive.items():
            _try(con, f"task.derive: {name}", sql, file, columns, unknown)
            kind = str(con.sql(f"SELECT ({sql}) AS made FROM rows").types[0])
            con.execute(f'ALTER TABLE rows ADD COLUMN "{_quoted(name)}" {kind}')
            columns[name] = kind
        stated = {"task.where": task.where, **{f"rules: {r.name}": r.score for r in statement.rules}}
        for at, expression in stated.items():
            if expression:
                _try(
                    con,
                    at,
                    f"CAST(({expression}) AS DOUBLE)" if at.startswith("rules") else expression,
                    file,
                    columns,
                    unknown,
                )


def _try(con: Any, where: str, sql: str, file: Path, columns: dict[str, str], lenient: bool) -> None:
    import duckdb

    try:
        con.execute(f"SELECT ({sql}) FROM rows")
    except duckdb.Error as error:
        if lenient and isinstance(error, duckdb.BinderException):
            return  # a cleaning rule of the project's own may have added the column
        message = " ".join(str(error).split("\n\nLINE")[0].split())[:300]
        raise ProblemError(
            f"{message} (columns: {', '.join(columns)})", f"{file}: {where}", "Fix the statement, then: mlloop check"
        ) from error


def _type(kind: str) -> str:
    return {"integer": "BIGINT", "number": "DOUBLE", "time": "TIMESTAMP", "date": "DATE", "boolean": "BOOLEAN"}.get(
        kind, "VARCHAR"
    )


def _quoted(name: str) -> str:
    return name.replace('"', '""')


__all__ = ["MlloopError", "everything", "expressions", "out_of_step"]
