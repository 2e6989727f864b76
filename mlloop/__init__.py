"""From a question to a model that stays right in production: a loop of literate notebooks.

Modules:

- `mlloop.core.charts`: A matplotlib figure as SVG whose text is text: one drawing for wide pages, one for narrow ones, and the numbers drawn.
- `mlloop.core.errors`: Every error a user can meet, each with what happened, where, and the next step.
- `mlloop.core.expressions`: SQL that a statement states about a row: it sees that row's columns, and always says the same of the same row.
- `mlloop.core.extensions`: What a project adds of its own: business rules and checks, and how its modules are found.
- `mlloop.core.formatting`: The one writer of figures: the same number with the same unit reads alike on a page, in a table and in a sentence.
- `mlloop.core.forms`: The version of each stage's product, apart from the models in `mlloop.products`, so that freshness is told without them.
- `mlloop.core.metric_table`: The metrics, each described once: name, title, unit, direction, range, task, and what it says in words.
- `mlloop.core.metrics`: How good are predictions, how sure are we, and what are they worth?
- `mlloop.core.moved`: Where modules went that data outside the package may still name: pipelines, saved models, code of own projects.
- `mlloop.core.parsing`: Python source as a syntax tree, one thread at a time; YAML files, pipeline.yaml above all, as what they hold.
- `mlloop.core.reads`: Which fields of the products before it a stage has read, so that a change of other fields does not make it stale.
- `mlloop.core.records`: What modules hand to each other as plain JSON, with the type of every key.
- `mlloop.core.revisions`: The revisions of a problem statement: `shop.yaml` is the first, `shop.r2.yaml` the second, and one of them is current.
- `mlloop.core.secrets`: Passwords and tokens that stand in a statement: what is written of them elsewhere is stars.
- `mlloop.core.verdict`: What a gate says: yes, maybe or no, on figures, with what would have to change.
- `mlloop.data.simulator`: XYZShopSmart, a simulated shop with a known ground truth: customers, a catalogue, clicks, purchases and data errors.
- `mlloop.export.exporters`: What `mlloop export` writes for the programs around a project: one module for each, and one line of this table.
- `mlloop.export.metrics`: What a batch command knows, in Prometheus' text format: model health, performance, drift, feed, lag, decisions, canary.
- `mlloop.kernels.provisioner`: Warm kernels as jupyter_client and papermill know them: a kernel provisioner and an engine.
- `mlloop.kernels.zygote`: A process that has the libraries imported and forks Jupyter kernels from itself on request.
- `mlloop.lab.magics`: `%load_ext mlloop`: a stage's true inputs in a notebook, the command line without leaving it, and rich displays.
- `mlloop.lab.saving`: Saving from JupyterLab: a stage notebook goes to disk without what its kernel left in it, so git sees only your change.
- `mlloop.loop.alerts`: Alerts that reach people: mail, Slack, PagerDuty, a webhook, by the addresses under [alerts] in settings.ini.
- `mlloop.loop.arrivals`: What came in a period: rows brought into the lake, asked of the models in production, and labels as far as they have come.
- `mlloop.loop.backtest`: Chooses the retraining policy of a problem by turning its history under several, each in a copy of the project.
- `mlloop.loop.counterfactual`: What other policies would have come to on the same rows: the first model for ever, and fixed schedules without gate or trial.
- `mlloop.loop.erasure`: Erases one person's rows on request: from raw files, tables, prediction logs, and what runs kept of rows.
- `mlloop.loop.history`: The loop through a history: turn after turn at the data's own pace, and what it gained.
- `mlloop.loop.maintenance`: Keeps a project from growing for ever: compaction, removal of what nothing cites, and backups of its databases.
- `mlloop.loop.turn`: One turn of the loop, for a scheduler: bring the data, answer, watch, judge the canary, decide, retrain.
- `mlloop.models.onnx_export`: A fitted scikit-learn estimator as ONNX: how it is converted, run, and held against the estimator on real rows.
- `mlloop.monitors.periods`: The grid of periods, and since when a champion answers: one rule for the turn, for monitoring and for pages.
- `mlloop.pages.figures`: A chart of a notebook inside a page: SVG that cannot run, fetch or break out, in the colours of the page.
- `mlloop.pages.notebook_html`: Cells of an executed notebook as HTML that cannot run, fetch or break out, whatever the data hold.
- `mlloop.pages.report`: Pages that open from disk: an index of all problems, a page a stage, a model card, monitoring.
- `mlloop.pages.versions_view`: The models of a problem that were trained, released and replaced, and what sets any two of them apart.
- `mlloop.pipeline.plan`: pipeline.yaml as a plan: which notebook, after which, with which parameters, into which files.
- `mlloop.pipeline.runner`: Runs the pipeline: right (only what is stale), atomic, resumable, one run of a problem at a time, stopping at a closed gate.
- `mlloop.products`: What each stage hands on: one frozen model a stage, with a version, used to write its product and to read it.
- `mlloop.release.canary`: How a canary does beside the champion: the figures, and what follows from them.
- `mlloop.release.releases`: The production artefact: a folder that answers requests, whole without the pipeline, and never code.
- `mlloop.scaffold.dialect`: How a text file is written: encoding, separator, quotes, escapes, and the lines above its header.
- `mlloop.scaffold.notation`: How numbers are written in a column of text: decimal sign, thousands, what stands around them, and what only looks like one.
- `mlloop.service.connections`: What a service takes from its callers: how long a request may take to arrive, and how many may be there at once.
- `mlloop.service.http`: The HTTP service: /predict and /recommend for every problem that has a champion, /health, /ready, /metrics, /docs, and / to find them.
- `mlloop.service.topic`: The prediction log as messages of a Kafka topic, sent after the disk has them.
- `mlloop.store.chain`: The chain of a ledger's rows: each row's hash, the check of all, and what was verified before.
- `mlloop.store.champions`: The rules of production: who is champion, which canary is on, and what an entry that changes either must keep to.
- `mlloop.store.erasing`: Takes the rows of one person out of Parquet files and out of every version of a table of the lake.
- `mlloop.store.lake`: The lake: typed tables in Delta Lake, each version of which can be read again for ever.
- `mlloop.store.ledger`: The ledger: what was decided, when, by whom and on what evidence; the one authority on what is in production.
- `mlloop.store.messages`: Messages of a topic as rows: JSON as it is, Avro and Protobuf by a schema; what cannot be read says why.
- `mlloop.store.prediction_log`: The prediction log: what was asked, what was answered, by which model, when; on disk before it is acknowledged.
- `mlloop.store.regexes`: Regular expressions of RE2, which DuckDB has, as Java's, which Spark has: the same matches, or a refusal.
- `mlloop.store.shared_lock`: The locks of a project and its problems in the database of its ledger: of the machines that share it, one runs a problem.
- `mlloop.store.spark`: Spark as an engine that gives the same rows as DuckDB.
- `mlloop.store.topics`: Messages of Kafka topics land in the lake, each once: rows and the offsets that they reach are one commit."""

__version__ = "0.2.0"
__all__ = ["Project", "__version__", "open"]

import importlib

from mlloop.core import moved
from mlloop.core.settings import switch_off_telemetry

switch_off_telemetry()
moved.install()


def __getattr__(name):
    """`open` and `Project`, loaded when they are first asked for."""
    if name not in ("Project", "open"):
        raise AttributeError(f"module 'mlloop' has no attribute {name!r}")
    # by name: what a stage reaches by import decides when it runs again, and this is not part of it
    return getattr(importlib.import_module("mlloop.project"), name)


def __dir__():
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell):
    """`%load_ext mlloop`: the magic %mlloop and rich displays, see `mlloop.lab.magics`."""
    importlib.import_module("mlloop.lab.magics").register(shell)
