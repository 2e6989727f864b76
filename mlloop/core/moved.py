"""Where modules went that data outside the package may still name: pipelines, saved models, code of own projects.

`import mlloop.perceptron` gives `mlloop.models.perceptron`, the same module object. `mlloop upgrade` rewrites the names
in a project's files; saved models and ledgers keep theirs, so the names stay.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# what pipeline.yaml, saved models, MLflow's pyfunc loader, own modules and entry points name
MOVED = {
    "mlloop.artefacts": "mlloop.models.serialization",
    "mlloop.baselines": "mlloop.comparison.baselines",
    "mlloop.behaviour": "mlloop.data.event_features",
    "mlloop.candidates": "mlloop.models.candidates",
    "mlloop.cleaning": "mlloop.data.cleaning",
    "mlloop.definitions": "mlloop.data.feature_registry",
    "mlloop.errors": "mlloop.core.errors",
    "mlloop.factors": "mlloop.models.factors",
    "mlloop.hybrid": "mlloop.models.hybrid",
    "mlloop.jupyter": "mlloop.kernels.provisioner",
    "mlloop.lake": "mlloop.store.lake",
    "mlloop.ledger": "mlloop.store.ledger",
    "mlloop.magics": "mlloop.lab.magics",
    "mlloop.metrics": "mlloop.core.metrics",
    "mlloop.neumf": "mlloop.models.neumf",
    "mlloop.onnxform": "mlloop.models.onnx_export",
    "mlloop.own": "mlloop.core.extensions",
    "mlloop.perceptron": "mlloop.models.perceptron",
    "mlloop.plan": "mlloop.pipeline.plan",
    "mlloop.predictions": "mlloop.store.prediction_log",
    "mlloop.recommenders": "mlloop.models.recommenders",
    "mlloop.saving": "mlloop.lab.saving",
    "mlloop.settings": "mlloop.core.settings",
    "mlloop.storage": "mlloop.core.storage",
    "mlloop.tracking": "mlloop.store.tracking",
    "mlloop.verdict": "mlloop.core.verdict",
}


def current(name: str) -> str:
    """The dotted name that `name` has now: 'mlloop.own.rule' is 'mlloop.core.extensions.rule'; others as they are."""
    head, _, rest = name.partition(".")
    module, dot, rest = rest.partition(".")
    return MOVED.get(f"{head}.{module}", f"{head}.{module}" if module else head) + dot + rest


class _Alias(Loader):
    """Gives the module at its present place under its former name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self._module = importlib.import_module(MOVED[spec.name])
        self._spec = self._module.__spec__
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Alias()) if name in MOVED else None


def install() -> None:
    """Let former names be imported; asked last, so it costs nothing where a name is current."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
