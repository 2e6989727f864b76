"""The production artefact: a folder that answers requests, whole without the pipeline, and never code.

`release.json` says what is asked for (the fields), how fields become features, and what the answer means; beside it lies
the model as ONNX, or, where ONNX cannot express it, as skops or safetensors made of types from our own list. A business
rule is a release as well: its SQL stands in release.json, and its score becomes a probability by a curve beside it. The
folder's name is its digest, so that a release once made is never changed, and an earlier one is there to go back to.
"""

import contextlib
import json
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlloop.core import storage
from mlloop.core.errors import ModelError
from mlloop.core.expressions import quoted
from mlloop.core.records import DecisionThresholdJson, PredictionJson, ReleaseCardJson, Row, RowCleaningJson
from mlloop.core.row_sql import moment, parameters, with_rows
from mlloop.core.settings import Settings
from mlloop.models import onnx_export

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
NO_TEXT = "(missing)"
ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?$")
PARTS = ("month", "weekday", "hour")
CHUNK = 2000  # users ranked at once: each has a score for every item
NEXT = "Make it again: mlloop run --from deployment"


@dataclass(frozen=True)
class Field:
    """One thing that a request states.

    Attributes
    ----------
    name : str
    type : str
        'number', 'text', 'time', or 'list' (of texts; in a table of texts separated by semicolons).
    required : bool
        Whether a request without it is refused; else it counts as missing.
    min, max : float or None
    values : list of str or None
    meaning, unit : str
    derived : bool
        Whether cleaning adds it to a request, so that nobody states it.
    """

    name: str
    type: str
    required: bool = False
    min: float | None = None
    max: float | None = None
    values: list[str] | None = None
    meaning: str = ""
    unit: str = ""
    derived: bool = False


@dataclass(frozen=True)
class Feature:
    """How one feature is read off a request: the field `source`, a `part` of the time in it, or the definition by
    which it is `computed` from the fields."""

    name: str
    type: str
    source: str
    part: str | None = None
    computed: str | None = None


def folder_of(settings: Settings, problem: str, digest: str) -> Path:
    """Where a release of that digest lies."""
    return settings.state / "releases" / problem / digest[:32]


def write(settings: Settings, problem: str, card: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[Path, str]:
    """Write a release; the same content again is the same release.

    Parameters
    ----------
    card : dict
        The content of release.json.
    files : dict of str to bytes
        Relative name -> content.

    Returns
    -------
    path : Path
    digest : str
        Of the whole folder: what the ledger cites.
    """
    content = {**files, "release.json": _card(card)}
    names = sorted(content, key=Path)
    digest = storage.digest_json([[name, storage.digest_bytes(content[name])] for name in names])
    path = folder_of(settings, problem, digest)
    if not path.is_dir() or storage.digest_file(path) != digest:
        with storage.atomic_path(path) as beside:
            for name in names:
                (beside / name).parent.mkdir(parents=True, exist_ok=True)
                (beside / name).write_bytes(content[name])
    return path, digest


def _card(card: Mapping[str, Any]) -> bytes:
    return (json.dumps(storage.plain(dict(card)), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def load(folder: Path | str, digest: str) -> "Release":
    """The release in `folder`, if it is the one with that digest.

    Raises
    ------
    ModelError
        Missing, altered, of a format or of types that are not known.
    """
    folder = Path(folder)
    if not (folder / "release.json").is_file():
        raise ModelError("there is no release here", str(folder), NEXT)
    digest_now = storage.digest_file(folder)
    if digest_now != digest:
        raise ModelError(
            f"was altered: its digest is {digest_now[:12]}, the ledger says {digest[:12]}", str(folder), NEXT
        )
    card = storage.read_json(folder / "release.json")
    if card.get("format") != FORMAT:
        raise ModelError(f"has format {card.get('format')!r}, expected {FORMAT}", str(folder), NEXT)
    kind = Ranking if card["kind"] == "recommendation" else Scoring
    return kind(card, folder, digest)


def _cleaners(parts: Sequence[RowCleaningJson]) -> list[Any]:
    """What cleans a request; loaded only where a model was trained on cleaned rows."""
    if not parts:
        return []
    from mlloop.data.row_cleaner import RowCleaner

    return [RowCleaner(part) for part in parts]


class Release:
    """A loaded production artefact; `card` is its release.json.

    Attributes
    ----------
    digest, model, problem, kind, form : str
        `digest` is the release's, `model` the trained model's.
    fields : list of Field
    entity : str or None
        The field that names who is asked about.
    cleaners : list of RowCleaner
        What cleans a request as the training table was cleaned.
    withheld : list of str
        Fields that are read as missing, because their feed is broken.
    made_of : dict of str to list of str
        Fields that no source holds: each is made of these columns, see `joined`.
    """

    def __init__(self, card: ReleaseCardJson, folder: Path, digest: str):
        self.card, self.folder, self.digest = card, folder, digest
        self.model, self.problem, self.kind, self.form = card["model"], card["problem"], card["kind"], card["form"]
        self.entity: str | None = card.get("entity")
        self.fields = [Field(**field) for field in card["fields"]]
        self.cleaners = _cleaners(card.get("cleaning") or [])
        self.withheld: list[str] = list(card.get("withheld") or [])
        self.made_of: dict[str, list[str]] = dict(card.get("made_of") or {})

    @property
    def names(self) -> set[str]:
        """The names of its fields and of its entity."""
        return {field.name for field in self.fields} | ({self.entity} if self.entity else set())

    @property
    def threshold(self) -> DecisionThresholdJson | None:
        """The score from which the positive class is predicted (`value`), and where it comes from (`source`): 'money',
        'metric' or 'default'; None where an answer is not one of two classes."""
        return None

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[PredictionJson]:
        """One answer a row."""
        raise NotImplementedError


class Scoring(Release):
    """A classifier's or regressor's release: score and prediction of each row."""

    def __init__(self, card: ReleaseCardJson, folder: Path, digest: str, session: Any = None):
        super().__init__(card, folder, digest)
        self.features = [Feature(**fields_) for fields_ in card["features"]]
        inputs = {feature.name: feature.type for feature in self.features}
        self.positive, self.cut = card.get("positive_at"), float(card.get("cut", 0.5))
        self.cut_from = str(card.get("cut_from", "default"))
        self.classes = card.get("classes")
        self.shift = float(card.get("shift", 0.0))
        self.extra: Any = self._own_features()
        if session is not None:
            self.session = session
        elif self.form == "rule":
            self.session = Rule(card["rule"], {field_.name: field_.type for field_ in self.fields})
        elif self.form == "onnx":
            self.session = onnx_export.Session((folder / "model.onnx").read_bytes(), inputs)
        else:
            from mlloop.models import candidates

            self.session = _Estimator(candidates.load(folder), inputs)

    @property
    def threshold(self) -> DecisionThresholdJson | None:
        """See `Release.threshold`; of a release made before it was kept, one half."""
        decides = self.classes is not None and self.positive is not None
        return {"value": self.cut, "source": self.cut_from} if decides else None

    @property
    def is_rule(self) -> bool:
        """Whether a business rule answers, and no model."""
        return self.form == "rule"

    def _own_features(self) -> Any:
        """What computes the features that the project defined itself; None where there are none.

        Raises
        ------
        ModelError
            One is no longer there, or another than the model was trained with.
        """
        definitions = self.card.get("definitions") or {}
        if not definitions:
            return None
        from mlloop.core import extensions
        from mlloop.data import feature_registry

        extensions.bring_in()
        known = {part.name: part for part in feature_registry.definitions("row")}
        for name, digest in definitions.items():
            if name not in known or feature_registry.formula_digest(known[name]) != digest:
                what = "is no longer there" if name not in known else "was changed since the model was trained"
                raise ModelError(
                    f"its feature {name!r} {what}",
                    f"model {self.model[:12]}",
                    "Restore it, or retrain: mlloop run --from features",
                )
        return feature_registry.RowFeatures(
            [known[name] for name in definitions], {part.name: part.type for part in self.fields}
        )

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """The features of the rows as columns: numbers or None, and text."""
        if self.withheld:
            rows = [{**row, **dict.fromkeys(self.withheld)} for row in rows]
        by_feature: dict[str, list[Any]] = {}
        computed = self.extra(rows) if self.extra else {}
        for feature in self.features:
            if feature.name in computed:
                by_feature[feature.name] = computed[feature.name]
            elif feature.part:
                by_feature[feature.name] = [part_of(row.get(feature.source), feature.part) for row in rows]
            elif feature.type == onnx_export.TEXT:
                by_feature[feature.name] = [NO_TEXT if (v := row.get(feature.source)) is None else v for row in rows]
            else:
                by_feature[feature.name] = [row.get(feature.source) for row in rows]
        return by_feature

    def scores(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Probability of the positive class, of each class (n, n_classes) where there are more than two, or the number."""
        answered = self.session.scores_of_columns(self.columns(rows), len(rows))
        if answered.ndim != 2 or self.positive is None:
            return answered
        return shifted(answered[:, self.positive], self.shift)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[PredictionJson]:
        """score and prediction of each row.

        Raises
        ------
        ModelError
            An answer is not a number.
        """
        scores = self.scores(rows)
        if not np.isfinite(scores).all():
            raise ModelError(
                "answered with something that is not a number",
                f"model {self.model[:12]}",
                "Look at the row that was asked; go back to the model before: mlloop rollback",
            )
        return [self._answer(score) for score in scores.tolist()]

    def _answer(self, score: Any) -> PredictionJson:
        if self.classes is None:
            return {"score": score, "prediction": score}
        if isinstance(score, list):
            best = max(range(len(score)), key=score.__getitem__)
            return {"score": score[best], "prediction": self.classes[best]}
        assert self.positive is not None, "of two classes one is the positive one"
        yes, no = self.classes[self.positive], self.classes[1 - self.positive]
        return {"score": score, "prediction": yes if score >= self.cut else no}


def shifted(probability: np.ndarray, shift: float) -> np.ndarray:
    """Probabilities (n,) with another log odds; their order stays."""
    if not shift:
        return probability
    p = np.clip(np.asarray(probability, dtype=float), 1e-6, 1 - 1e-6)
    return 1 / (1 + (1 - p) / p * np.exp(-shift))


def part_of(moment: Any, part: str) -> float | None:
    """Month (1 to 12), weekday (0 is Monday) or hour of a moment."""
    if moment is None:
        return None
    return float({"month": moment.month, "weekday": moment.weekday(), "hour": getattr(moment, "hour", 0)}[part])


class _Estimator:
    """A scikit-learn estimator with the interface of an ONNX session."""

    def __init__(self, estimator: Any, inputs: Mapping[str, str]):
        self.estimator, self.inputs = estimator, dict(inputs)

    def scores_of_columns(self, columns: Mapping[str, list[Any]], n: int) -> np.ndarray:
        import pandas as pd

        kinds = {onnx_export.NUMBER: "float64", onnx_export.TEXT: "object"}
        frame = pd.DataFrame({name: pd.Series(columns[name], dtype=kinds[kind]) for name, kind in self.inputs.items()})
        ask = getattr(self.estimator, "predict_proba", None) or self.estimator.predict
        return np.asarray(ask(frame), dtype=float)


class Rule:
    """A business rule with the interface of an ONNX session.

    Parameters
    ----------
    definition : dict
        `columns` (name -> SQL type), `score` (an SQL expression of them), `fill` (the score of a row that it says
        nothing of) and, for a class, `curve` (`score` and `probability`, both rising), see `rule_release`.
    fields : dict of str to str
        What a request states: name and 'number', 'text' or 'time'.
    """

    KINDS: ClassVar[dict[str, str]] = {"number": "DOUBLE", "time": "TIMESTAMP"}

    def __init__(self, definition: Mapping[str, Any], fields: Mapping[str, str]):
        import duckdb

        self.definition, self.fields = definition, {name: fields[name] for name in definition["columns"]}
        self.con = duckdb.connect(config={"enable_external_access": "false", "threads": 1})
        typed = ", ".join(
            f"TRY_CAST({quoted(n)} AS {kind}) AS {quoted(n)}" for n, kind in definition["columns"].items()
        )
        names = ["_row", *([typed] if typed else [])]
        rows = f"(SELECT {', '.join(names)} FROM asked)"
        types = {"_row": "BIGINT"} | {name: self.KINDS.get(kind, "VARCHAR") for name, kind in self.fields.items()}
        self.sql = with_rows(
            "asked", types, f"SELECT CAST(({definition['score']}) AS DOUBLE) AS score FROM {rows} ORDER BY _row"
        )
        self.lock = threading.Lock()

    def scores_of_columns(self, columns: Mapping[str, list[Any]], n: int) -> np.ndarray:
        """The score of each row, (n,): a probability for a class, else the number."""
        import duckdb

        values = [[_plain(value, kind) for value in columns[name]] for name, kind in self.fields.items()]
        with self.lock:
            try:
                scores = self.con.execute(self.sql, parameters([list(range(n)), *values])).fetchnumpy()["score"]
            except duckdb.Error as error:
                message = " ".join(str(error).split())
                raise ModelError(f"its rule cannot be computed: {message}", self.definition["name"], NEXT) from error
        raw: np.ndarray = np.ma.filled(np.ma.asarray(scores, dtype=float), np.nan)
        raw = np.where(np.isfinite(raw), raw, self.definition["fill"])
        curve = self.definition.get("curve")
        return np.interp(raw, curve["score"], curve["probability"]) if curve else raw


def _plain(value: Any, kind: str) -> Any:
    """A value of a field as DuckDB takes it; None where it is missing."""
    if value is None or value == NO_TEXT or value != value:
        return None
    return float(value) if kind == "number" else moment(value) if kind == "time" else str(value)


class Ranking(Release):
    """A recommender's release: the best items for each user."""

    def __init__(self, card: ReleaseCardJson, folder: Path, digest: str):
        super().__init__(card, folder, digest)
        from mlloop.models import candidates

        self.recommender = candidates.load(folder)
        self.is_rule = bool(card.get("rule"))
        self.k, self.repeats = card["k"], card["repeats"]

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[PredictionJson]:
        """The items for each row's user, best first, without those in its `exclude`; a user nobody knows is shown what is popular."""
        return [{"items": items} for items in chosen(self.recommender, rows, self.k, self.repeats)]


def chosen(recommender: Any, rows: Sequence[Mapping[str, Any]], k: int, repeats: bool) -> list[list[str]]:
    """The items that a recommender shows to each row's user, best first.

    Parameters
    ----------
    rows : sequence of dict
        user; k and exclude (items) where they are stated.
    repeats : bool
        Whether what the recommender saw a user buy is shown again.
    """
    return [
        items
        for start in range(0, len(rows), CHUNK)
        for items in _chosen(recommender, rows[start : start + CHUNK], k, repeats)
    ]


def _chosen(recommender: Any, rows: Sequence[Mapping[str, Any]], k: int, repeats: bool) -> list[list[str]]:
    lengths = [row.get("k") or k for row in rows]
    left_out = [set(row.get("exclude") or ()) for row in rows]
    users = [row["user"] for row in rows]
    most = max((n + len(out) for n, out in zip(lengths, left_out, strict=True)), default=k)
    ranked = recommender.recommend(users, k=most, exclude_seen=not repeats)
    to_show = _to_show(recommender, users, repeats)
    lists = ([str(item) for item in items[:n]] for items, n in zip(ranked, to_show, strict=True))
    return [[i for i in items if i not in out][:n] for items, out, n in zip(lists, left_out, lengths, strict=True)]


def _to_show(recommender: Any, users: Sequence[str], repeats: bool) -> list[int]:
    """How many items there are for each user: all, or those not bought before, which stand first."""
    every = len(recommender.items_)
    if repeats:
        return [every] * len(users)
    bought = np.append(np.diff(recommender.seen_.indptr), 0)  # the last: a user nobody knows
    return (every - bought[recommender.users_.get_indexer(users)]).tolist()


def has_bought(recommender: Any, users: Any, items: Any) -> np.ndarray:
    """Whether the recommender saw each user buy the item beside it, (n_pairs,)."""
    import pandas as pd

    known = recommender.seen_.tocoo()
    row, column = (
        recommender.users_.get_indexer(users),
        recommender.items_.astype(str).get_indexer(pd.Index(items).astype(str)),
    )
    cell = lambda row, column: np.asarray(row, dtype=np.int64) * len(recommender.items_) + column
    return (row >= 0) & (column >= 0) & np.isin(cell(row, column), cell(known.row, known.col)[known.data > 0])


def rows_of(frame: "pd.DataFrame", fields: Sequence[Field]) -> list[Row]:
    """A table's rows as requests state them: the known fields, missing values as None.

    What is no number or time where one is asked for stays as it is, so that the check of its row can name it.
    """

    columns = {}
    for field in fields:
        if field.name not in frame:
            continue
        values = frame[field.name]
        missing = values.isna().to_numpy()
        try:
            listed = _listed(values, field.type)
        except (ValueError, TypeError):
            listed = values.tolist()
        columns[field.name] = [None if gone else value for value, gone in zip(listed, missing, strict=True)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def joined(row: Mapping[str, Any], parts: Sequence[str]) -> str | None:
    """The texts of a row's parts joined by a blank, as ingestion joins them; None where one of them is missing."""
    values = [row.get(part) for part in parts]
    texts = ["" if value is None or value != value else _text(value).strip() for value in values]
    return " ".join(texts) if all(texts) else None


def _listed(values: "pd.Series", kind: str) -> list[Any]:
    import pandas as pd

    if kind == "time":
        if values.dtype != object:
            return pd.to_datetime(values).tolist()
        # other text is left to what knows its format: pandas would guess, and take the 3rd of April for the 4th of March
        return _moments(values)
    if kind == "number":
        return values.astype("float64").tolist()
    if kind == "list":
        return [
            list(item) if np.iterable(item) and not isinstance(item, str) else [*map(str.strip, _text(item).split(";"))]
            for item in values.tolist()
        ]
    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        return values.tolist()
    return [_text(value) for value in values.tolist()]


def _moments(values: "pd.Series") -> list[Any]:
    """Times as requests and the prediction log state them (2025-03-01, or with the time of day); anything else as it is."""
    import pandas as pd

    is_iso = values.map(lambda value: isinstance(value, str) and ISO.match(value) is not None).to_numpy(bool)
    if is_iso.all():  # a whole log at once
        # several offsets from UTC: pandas warns, and will refuse them; they are read one by one
        with contextlib.suppress(ValueError, FutureWarning), warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return pd.to_datetime(values, format="ISO8601").tolist()
    return [_moment(value) if iso else value for value, iso in zip(values.tolist(), is_iso, strict=True)]


def _moment(value: str) -> Any:
    """A time; as it is where the calendar has no such day."""
    import pandas as pd

    try:
        return pd.Timestamp(value)
    except ValueError:
        return value


def _text(value: Any) -> str:
    """A value as the text that JSON's number would become: 21.0, as a table with gaps has an integer, is '21'."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
