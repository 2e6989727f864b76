"""From a question to a model that stays right in production: a loop of literate notebooks.

Modules:

- `mlloop.errors`: Every error a user can meet, each with what happened, where, and the next step.
- `mlloop.lake`: The lake: typed tables in Delta Lake, each version of which can be read again for ever.
- `mlloop.ledger`: The ledger: what was decided, when, by whom and on what evidence; the one authority on what is in production.
- `mlloop.metrics`: How good are predictions, how sure are we, and what are they worth?
- `mlloop.plan`: pipeline.yaml as a plan: which notebook, after which, with which parameters, into which files.
- `mlloop.runner`: Runs the pipeline: right (only what is stale), atomic, resumable, one run at a time, stopping at a closed gate."""

__version__ = "0.1.0"

from mlloop.settings import switch_off_telemetry

switch_off_telemetry()
