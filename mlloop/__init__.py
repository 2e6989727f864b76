"""From a question to a model that stays right in production: a loop of literate notebooks.

Modules:

- `mlloop.errors`: Every error a user can meet, each with what happened, where, and the next step."""

__version__ = "0.1.0"

from mlloop.settings import switch_off_telemetry

switch_off_telemetry()
