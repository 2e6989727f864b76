"""What each stage hands on: one frozen model a stage, with a version, used to write its product and to read it.

A product is a JSON file. Its `stage` and `version` name the model below that it has to fit, to the last key: a field that is
missing, renamed or of another type is an error that names it, when the product is written and when it is read. A product of
another version, or of none, is of an older form: its stage is stale and makes it again (`core.forms`). Nothing is guessed.

Figures as DataFrames are `Project.evaluation` and `Project.monitoring`, made in `pipeline.dataframes`.

A stage that a project adds itself has a name of its own, and its product holds what it likes: see `Own`.

To add a field: declare it here (with a default, where products without it are to stay readable) and write it in the stage's
Run act. To change what a field means, or to remove one: raise its stage's version in `core.forms` as well.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_serializer

from mlloop.core import forms, reads, storage, verdict
from mlloop.core.errors import ProductError
from mlloop.core.forms import older_form, version_of
from mlloop.core.records import JsonObject, MonitoringJson
from mlloop.problem import Problem

Number = float | None  # None: a figure that could not be measured


class Part(reads.Followed, BaseModel):
    """What a product is made of: frozen, strict about types, no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, defer_build=True)


# ---------------------------------------------------------------------------------------------- what products share


class Table(Part):
    """One version of a table of the lake, as `store.lake.TableRef`."""

    name: str
    uri: str
    version: int
    rows: int
    digest: str


class Estimate(Part):
    """A figure with its interval and the rows, users or folds it is of."""

    value: Number
    low: Number
    high: Number
    n: int


class DecisionThreshold(Part):
    """The score from which a row is predicted positive; `source`: 'money', 'metric' or 'default'."""

    value: float
    source: str


class Interval(Part):
    """A figure with its interval."""

    value: Number
    low: Number
    high: Number


class Figure(Part):
    """A figure with its standard error, as monitoring measures it."""

    value: Number
    low: Number
    high: Number
    se: Number
    n: int


class Evidence(Part):
    """A check's figure, and how it went (None: left open)."""

    name: str
    value: Number
    unit: str
    low: Number
    high: Number
    threshold: Number
    passed: bool | None


class Verdict(Part):
    """What a gate says, as `core.verdict.conclude` makes it."""

    gate: str
    verdict: Literal["yes", "maybe", "no"]
    deciding: str
    reasons: list[str]
    evidence: list[Evidence]
    must_change: list[str]


class Period(Part):
    """From (included) until (not included), ISO."""

    since: str = Field(alias="from")
    until: str


class LeftOut(Part):
    """A column that is not used, and why."""

    column: str
    why: str


class Fold(Part):
    """A cut of time: what is learned from before, what is tested on after; ISO."""

    train_until: str
    test_from: str
    test_until: str


class Windows(Part):
    """How time is cut; ISO."""

    as_of: str
    since: str = Field(alias="from")
    train_until: str
    holdout_from: str
    holdout_until: str
    folds: list[Fold]


class Recipe(Part):
    """An untrained estimator: a candidate with its hyperparameters; `cut`: the threshold of its folds, if it needed one."""

    name: str
    params: dict[str, JsonValue]
    seed: int
    digest: str
    cut: Number = None


class Registered(Part):
    """A model's version in MLflow's registry."""

    name: str
    version: int
    digest: str
    form: str


class Model(Part):
    """A trained model: where its files are, and what identifies them."""

    name: str
    path: str
    digest: str
    form: str
    recipe: Recipe
    registered: Registered | None = None


class CalibrationBin(Part):
    """A tenth of the scores: what was predicted and what happened."""

    predicted: Number
    observed: Number
    low: Number
    high: Number
    n: int


# ---------------------------------------------------------------------------------------------- the products


class Product(Part):
    """What every product has: its stage, the version of its form, a finding, and facts that a project adds."""

    stage: str
    version: int = 0  # set when it is written: see `core.forms`
    finding: str = ""
    extra: dict[str, JsonValue] = {}


class Statement(Product):
    """Of `problem`: the statement as the run read it, and the moment it stands at."""

    stage: Literal["problem"] = "problem"
    problem: Problem
    as_of: str
    sample: float
    seed: int

    @field_serializer("problem")
    def _whole(self, problem: Problem) -> dict[str, JsonValue]:
        return problem.model_dump(mode="json")


class Batch(Part):
    """Raw rows fetched once, as `collection.Batch`."""

    path: str
    digest: str
    rows: int
    format: str
    origin: str
    source_digest: str
    since: str | None = None
    watermark: str | None = None


class Collection(Product):
    """Of `collection`: the batches of each source."""

    stage: Literal["collection"] = "collection"
    batches: dict[str, list[Batch]]


class Counts(Part):
    """Rows of a table: read = kept + rejected + duplicates."""

    read: int
    kept: int
    rejected: int
    duplicates: int


class SchemaChange(Part):
    """A change in the columns of a source from one file to the next."""

    table: str
    file: str
    change: str
    column: str
    explanation: str


class Ingestion(Product):
    """Of `ingestion`: each table, its rejected rows and its counts."""

    stage: Literal["ingestion"] = "ingestion"
    tables: dict[str, Table]
    rejected: dict[str, Table]
    counts: dict[str, Counts]
    schema_changes: list[SchemaChange]


class Change(Part):
    """What a rule of cleaning did, as `data.cleaning.Change`."""

    table: str
    rule: str
    columns: list[str]
    rows: int
    kind: Literal["changed", "dropped", "flagged", "noted"]
    reason: str
    declared: bool
    examples: list[dict[str, JsonValue]]


class Transformation(Product):
    """Of `transformation`: clean tables, the windows of time (None: no time), what was changed, and how one row is cleaned."""

    stage: Literal["transformation"] = "transformation"
    tables: dict[str, Table]
    windows: Windows | None
    changes: list[Change]
    row_cleaning: list[dict[str, JsonValue]] = []


class RangeQuestion(Part):
    """Values of a column that deserve a question to whoever delivers it: how many rows, what about them; no row is shown."""

    column: str
    rows: int
    share: float
    question: str


class Facts(Part):
    """What analysis found, each fact as the function of its name gives it; None where the task has no such fact."""

    columns: list[dict[str, JsonValue]]
    newest: JsonValue = None
    rows: int
    sampled: int
    since: str | None = Field(default=None, alias="from")
    until: str | None = None
    target: dict[str, JsonValue] | None = None
    association: list[dict[str, JsonValue]] | None = None
    segments: list[dict[str, JsonValue]] | None = None
    suspects: list[dict[str, JsonValue]] = []
    unconfirmed: list[dict[str, JsonValue]] = Field(default=[], alias="asked")
    trend: dict[str, JsonValue] | None = None
    seasons: dict[str, JsonValue] | None = None
    kinds: dict[str, int] | None = None
    users: int | None = None
    buyers: int | None = None
    items: int | None = None
    items_bought: int | None = None
    catalogue: int | None = None
    concentration: dict[str, JsonValue] | None = None
    loyalty: dict[str, JsonValue] | None = None
    newcomers: dict[str, JsonValue] | None = None
    sessions: dict[str, JsonValue] | None = None
    hours: dict[str, int] | None = None
    questions: list[RangeQuestion] = []


class Analysis(Product):
    """Of `analysis`: the facts of the training period, and what they say."""

    stage: Literal["analysis"] = "analysis"
    facts: Facts
    findings: list[str]


class HealthFigure(Part):
    """A figure of the health of the data."""

    figure: str
    value: Number
    unit: str
    threshold: Number
    verdict: str


class Health(Part):
    health: list[HealthFigure]


class Visualization(Product):
    """Of `visualization`: the health of the data."""

    stage: Literal["visualization"] = "visualization"
    facts: Health


class FoldedEstimate(Estimate):
    """An estimate over folds, with each fold's value."""

    folds: list[Number]


class FoldedContender(Part):
    """A contender of the need gate over the folds."""

    name: str
    kind: Literal["rule", "statistic", "chance", "model"]
    meaning: str
    metric: Estimate
    worth: Estimate
    folds: list[Number]


class UnconfirmedColumn(Part):
    """A column that may be known too late: its sign, and what a cheap model gives with and without it."""

    column: str
    sign: str
    value: Number
    without: Number
    rests: bool


class NeedFigures(Part):
    """What the need gate decides on."""

    task: str
    metric: str
    data: dict[str, int]
    contenders: list[FoldedContender]
    model: str
    best_rule: str
    best_paying: str
    gain: FoldedEstimate
    more_worth: Estimate
    left_out: list[LeftOut]
    timeless: bool
    unconfirmed: list[UnconfirmedColumn] = Field(default=[], alias="asked")
    in_file_order: bool = False
    repeated: int = 0
    without_unconfirmed: "NeedFigures | None" = Field(default=None, alias="without_asked")


class NeedGate(Product):
    """Of `need_gate`: the verdict and the figures it rests on."""

    stage: Literal["need_gate"] = "need_gate"
    verdict: Verdict
    figures: NeedFigures


class Feature(Part):
    """A feature as the catalogue lists it."""

    name: str
    meaning: str
    unit: str
    source: str


class Features(Product):
    """Of `features`: the tables that models learn from and are judged on, and the definition of their columns."""

    stage: Literal["features"] = "features"
    kind: str
    tables: dict[str, Table]
    windows: Windows | None
    features: list[str]
    catalogue: list[Feature]
    left_out: list[LeftOut]
    definition: str
    changed_by_the_future: list[str]
    unconfirmed: list[UnconfirmedColumn] = Field(default=[], alias="asked")
    row_cleaning: list[dict[str, JsonValue]] = []
    cheap: Estimate | None = None


class Trained(Part):
    """What a candidate came to in the folds."""

    name: str
    kind: str
    meaning: str
    complexity: int
    params: dict[str, JsonValue]
    folds: list[Number]
    mean: Number
    low: Number
    high: Number
    n: int
    behind: Interval


class Trial(Part):
    """One try of a candidate's hyperparameters, with its value in each fold."""

    candidate: str
    params: dict[str, JsonValue]
    values: list[Number]
    is_pruned: bool


class Chosen(Part):
    """The candidate that goes on to building; `cut`: the threshold at which its metric was best in the folds."""

    name: str
    params: dict[str, JsonValue]
    cut: Number = None


class Exploration(Product):
    """Of `exploration`: every candidate and trial, and the chosen one."""

    stage: Literal["exploration"] = "exploration"
    metric: str
    candidates: list[Trained]
    trials: list[Trial]
    stopped: list[str]
    chosen: Chosen


class Building(Product):
    """Of `building`: the recipe of the estimator, and its Python type."""

    stage: Literal["building"] = "building"
    estimator: Recipe
    type: str


class LearntFrom(Part):
    """What a model has learned from: rows (or events), and the period; ISO."""

    rows: int
    since: str | None = Field(default=None, alias="from")
    until: str | None = None


class Judged(Part):
    """One of the models that stand for the recipe in a rolling-origin evaluation; each is judged on rows it never saw."""

    path: str
    digest: str
    form: str
    learnt_until: str | None = None
    since: str | None = None
    until: str | None = None
    rows: int
    lookback: str | None = None
    half: bool | None = None
    part: int | None = None


class LookbackCandidate(Part):
    """One way to choose how far back to learn, and how it did forward in time."""

    name: str
    kind: Literal["all", "days", "since", "decay"]
    recipe: str = ""
    days: float | None = None
    since: str | None = None
    half_life_days: float | None = None
    rows: int
    value: Number
    low: Number
    high: Number
    behind: Interval | None = None
    chosen: bool


class Lookback(Part):
    """How far back a retraining learns, and what that was chosen from."""

    candidates: list[LookbackCandidate]
    chosen: str
    halves: list[str]
    by: str
    n: int
    blocks: list[list[str]]
    changed_at: str | None = None
    detected_at: str | None = None


class Training(Product):
    """Of `training`: the model, and what it learned from."""

    stage: Literal["training"] = "training"
    trained: LearntFrom
    features: list[str]
    definition: str
    model: Model
    judged: list[Judged] = []
    lookback: Lookback | None = None
    learnt_tables: dict[str, Table] | None = None


class NamedEstimate(Estimate):
    """A metric of the holdout, in its unit."""

    name: str
    label: str
    unit: str


class Contender(Part):
    """The model, or what it is compared with, on the holdout; `gain`: how much better the model is."""

    name: str
    kind: Literal["rule", "statistic", "chance", "champion", "model"]
    meaning: str
    metric: Estimate
    worth: Estimate
    gain: Estimate | None = None
    more_worth: Estimate | None = None


class Slice(Part):
    """The metric in one group; `gap`: how much worse than overall; None where it cannot be measured."""

    slice: str
    group: str
    n: int
    value: Number
    low: Number
    high: Number
    gap: Number


class AgainstChampion(Part):
    """The gain over the champion on rows that neither has learned; `gain` is None where they cannot be compared.

    `accepted` names the open points of a model that a person promoted; `unjudged_groups` the checks of groups
    that could not be judged on the champion; `follow_up`: the champion learnt from few rows; `newest`: the gain on the
    newest judged rows, where it is sure there.
    """

    summary: str = Field(alias="said")
    digest: str | None
    gain: Estimate | None
    since: str | None = None
    n: int | None = None
    newest: Estimate | None = None
    metric: Estimate | None = None
    more_worth: Estimate | None = None
    over_rule: Estimate | None = None
    accepted: list[str] = Field(default_factory=list)
    unjudged_groups: list[str] = Field(default_factory=list)
    follow_up: bool = False


class Latency(Part):
    """Bounds below which the median and the 99th percentile of one prediction's time stay."""

    p50_below_ms: Number
    p99_below_ms: Number
    calls: int


class Examples(Part):
    """Questions and the model's answers, for a fresh process to repeat: rows of columns, or users."""

    answers: list[JsonValue]
    rows: dict[str, list[JsonValue]] | None = None
    numbers: list[str] | None = None
    users: list[str] | None = None


class Reference(Part):
    """What monitoring compares later periods with."""

    windows: Windows | None = None
    holdout: Table | None = None
    events: Table | None = None
    items: Table | None = None


class JudgedPeriod(Part):
    """The metric in one period of a rolling-origin evaluation; ISO."""

    since: str
    until: str
    learnt_until: str
    n: int
    value: Number
    low: Number
    high: Number


class Refit(Part):
    """How far the released refit differs from the models that were judged."""

    model: str
    judged: list[str]
    rows: int
    differs: Number
    unit: str
    bound: Number
    gain: Interval | None = None
    slices: list[dict[str, JsonValue]] | None = None


class Importance(Interval):
    """What the metric loses when a column is shuffled; `shap`: mean size of its Shapley value, where the model is of trees."""

    feature: str
    shap: Number = None


class DependencePoint(Part):
    """The mean prediction with a column set to a value."""

    at: float | str
    predicted: float


class Dependence(Part):
    """How a column moves the prediction."""

    feature: str
    is_number: bool
    points: list[DependencePoint]


class CurvePoint(Part):
    """What a threshold gives; `precision` is None where nothing is predicted positive."""

    threshold: Number
    recall: float
    false_positive_rate: float
    precision: Number


class Curves(Part):
    """The ROC and the precision-recall curve, and the served threshold."""

    points: list[CurvePoint]
    served: CurvePoint | None
    positive_share: float
    roc_auc: float
    average_precision: float


class ResidualGroup(Interval):
    """The residuals of a tenth of the rows by prediction: mean, and the range of eight of ten."""

    predicted: float
    n: int


class ListFigure(Part):
    """How wide recommended lists look."""

    name: str
    value: Number
    unit: str


class Inspection(Part):
    """What a model rests on and where it errs, on rows that it has not learnt; what does not fit the task is empty."""

    rows: int
    importance: list[Importance] = []
    dependence: list[Dependence] = []
    curves: Curves | None = None
    residuals: list[ResidualGroup] = []
    lists: list[ListFigure] = []


class Evaluation(Product):
    """Of `evaluation`: everything that the holdout showed. `best_rule` is the place of the best rule in `contenders`."""

    stage: Literal["evaluation"] = "evaluation"
    model: str
    main: Estimate
    metrics: list[NamedEstimate]
    contenders: list[Contender]
    best_rule: int
    threshold: DecisionThreshold | None = None
    champion: AgainstChampion
    slices: list[Slice]
    slices_missing: list[str]
    calibration: list[CalibrationBin] | None = None
    latency: Latency
    tables: dict[str, Table]
    reference: Reference
    examples: Examples
    periods: list[JudgedPeriod] | None = None
    parts: int | None = None
    refit: Refit | None = None
    unconfirmed: list[UnconfirmedColumn] = Field(default=[], alias="asked")
    inspection: Inspection | None = None


class Reproduction(Part):
    """How many predictions a fresh process repeats: `same` of `predictions`; None: it gave none."""

    predictions: int = Field(alias="asked")
    same: int | None
    summary: str = Field(alias="said")


class AttainableModel(Interval):
    """A model that could answer, and its figure."""

    model: str


class AttainableRule(Interval):
    """A rule that could answer, and its figure."""

    name: str


class Gains(Part):
    """How much better each of three is than the next, on the same rows."""

    challenger_over_rule: Estimate | None = None
    challenger_over_champion: Estimate | None = None
    champion_over_rule: Estimate | None = None


class Attainable(Part):
    """What is attainable now, and who of challenger, champion and rule gives it."""

    metric: str
    label: str
    n: int
    best: Literal["challenger", "champion", "rule"]
    usable: bool
    challenger: AttainableModel
    champion: AttainableModel | None
    rule: AttainableRule | None
    gains: Gains
    summary: str = Field(alias="said")


class ValidationGate(Product):
    """Of `validation_gate`: the verdict on a model, and whether a fresh process could use it."""

    stage: Literal["validation_gate"] = "validation_gate"
    verdict: Verdict
    model: str
    reproduction: Reproduction = Field(alias="asked")
    attainable: Attainable | None = None


class Parity(Part):
    """How far the production form differs from the trained model on real rows."""

    unit: str
    rows: int
    largest: Number
    mean: Number
    bound: Number


class Release(Part):
    """What goes out for a model."""

    path: str
    digest: str
    form: str
    parity: Parity
    note: str
    threshold: DecisionThreshold | None = None


class RuleRelease(Part):
    """The best rule, kept ready as a release."""

    name: str
    model: str
    release: str


class Deployment(Product):
    """Of `deployment`: the release, and who answers ('champion', 'canary', or 'refused')."""

    stage: Literal["deployment"] = "deployment"
    model: Model
    action: str
    release: Release
    rule: RuleRelease | None = None


class FeedFinding(Part):
    """One thing that is wrong with the feed."""

    table: str
    column: str | None
    kind: str
    value: Number
    threshold: Number
    summary: str = Field(alias="said")


class Feed(Part):
    """Whether the feed is in order, and the rows of each stream in the period."""

    status: Literal["ok", "broken"]
    findings: list[FeedFinding]
    rows: dict[str, int]
    withheld: list[str] = []


class DriftedColumn(Part):
    """How far a column's distribution lies from the reference."""

    name: str
    method: str
    value: Number
    threshold: Number
    alert: bool


class NotCompared(Part):
    """A column that could not be compared, and why."""

    name: str
    why: str


class DistributionBin(Part):
    """The share of the rows of the reference and of the period in a bin."""

    label: str
    reference: float
    period: float


class Distribution(Part):
    """A column of the reference and of the period in the same bins; `unseen`: the share of values that are new."""

    name: str
    bins: list[DistributionBin]
    missing_reference: float
    missing_period: float
    unseen: Number = None


class Drift(Part):
    """How the period's input differs from the reference; `distributions` of the columns furthest past their threshold."""

    columns: list[DriftedColumn]
    rows: int
    left_out: list[NotCompared]
    summary: str = Field(alias="said")
    distributions: list[Distribution] = []


# how the estimates of a period without labels are called, the most trusted first
ESTIMATION_METHODS = {"cbpe": "CBPE", "mcbpe": "M-CBPE", "pape": "PAPE", "dle": "DLE"}


class Estimated(Part):
    """What is estimated of a period without its labels; `value` is None where nothing could be."""

    metric: str
    reference: Figure
    methods: dict[str, Figure]
    trusted: bool
    why: str
    value: Number
    low: Number
    high: Number
    se: Number
    worse_by: Number
    standard_errors: Number
    spread: Number = None
    unreached: Number = None


class Other(Part):
    """Who else could have answered, on the same rows; `gain`: how much better than the model that did."""

    model: str
    name: str
    kind: Literal["rule", "former", "newer"]
    value: Number
    gain: Number
    low: Number
    high: Number
    se: Number
    standard_errors: Number
    n: int
    worth_gain: Number = None
    worth_se: Number = None


class Realised(Part):
    """What the labels of a period showed; `value` is None where they show nothing.

    `level_errors`: standard errors by which the outcome was more frequent than a classifier's probabilities say.
    """

    period: Period
    model: str
    reference: Figure
    estimated_then: Number
    value: Number
    low: Number
    high: Number
    se: Number
    worse_by: Number
    standard_errors: Number
    n: int
    labels_missing: float
    trusted: bool
    why: str
    level_errors: Number = None
    others: list[Other] = []


class Served(Part):
    """How long predictions took in production."""

    p50_ms: Number
    p99_ms: Number
    limit_ms: float
    n: int


class Errors(Part):
    """Predictions that failed."""

    n: int
    share: float


class Calibration(Part):
    """The calibration on the newest period with labels."""

    period: Period
    groups: list[CalibrationBin]


class Explanation(DriftedColumn):
    """How much a column's drift explains, and in how many of the periods before it had drifted."""

    weight: Number
    explains: Number
    alerts_before: int


class Segment(Part):
    """The metric in a group of the period, beside the reference."""

    slice: str
    group: str
    value: Number
    n: int
    reference: Number
    worse_by: Number
    standard_errors: Number
    by: Literal["labels", "estimate"]


class Explains(Part):
    features: list[Explanation]
    segments: list[Segment]


class Monitoring(Product):
    """Of `monitoring`: what was seen of the model in production in one period."""

    stage: Literal["monitoring"] = "monitoring"
    problem: str
    as_of: str
    period: Period
    model: str
    since: str
    rows: int
    feed: Feed
    drift: Drift
    estimated: Estimated
    realised: list[Realised]
    latency: Served
    errors: Errors
    calibration: Calibration | None
    explains: Explains
    health: Literal["ok", "watch", "worse", "feed broken", "not enough rows"]
    summary: str = Field(alias="said")
    alert: bool


class Retraining(Product):
    """Of `retraining`: what was decided for one period."""

    stage: Literal["retraining"] = "retraining"
    problem: str
    as_of: str
    action: str
    verdict: Literal["yes", "maybe", "no"]
    summary: str = Field(alias="said")
    change: str
    evidence: list[Evidence]


class Own(Product):
    """Of a stage that a project adds: any facts. mlloop reads `finding`, `verdict` (at a gate) and `tables` of it."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, defer_build=True)
    tables: dict[str, JsonValue] = {}


MODELS: dict[str, type[Product]] = {
    model.model_fields["stage"].default: model
    for model in (
        Statement, Collection, Ingestion, Transformation, Analysis, Visualization, NeedGate, Features, Exploration, Building,
        Training, Evaluation, ValidationGate, Deployment, Monitoring, Retraining,
    )
}  # fmt: skip
Kind = TypeVar("Kind", bound=Product)


# ---------------------------------------------------------------------------------------------- writing and reading


def save_product(product: Mapping[str, str] | str, content: Product | None = None, /, **facts: Any) -> JsonObject:
    """Write a stage's product: the JSON file that later stages, gates and pages read.

    Parameters
    ----------
    product : dict or str
        What Ploomber injects as `product` (its 'data' entry is used), or the path itself.
    content : Product, optional
        The product; otherwise its fields are given by name, `stage` among them.
    **facts
        Tables as `lake.TableRef`, figures, counts, verdicts; anything `storage.write_json` can write. They have to fit
        the model of their stage; what a project adds goes under `extra`. A stage of a project's own may hold anything.

    Returns
    -------
    dict
        The content as it will be read back.

    Raises
    ------
    ProductError
        A field is missing, is not declared, or is of another type.
    """
    path = product["data"] if isinstance(product, Mapping) else product
    content_of = facts if content is None else content.model_dump(mode="json", by_alias=True, exclude_unset=True)
    stage = str(content_of.get("stage") if content is None else content.stage)
    plain: JsonObject = storage.plain({**content_of, "stage": stage, "version": version_of(stage)})
    parse(plain, str(path))
    storage.write_json(path, plain)
    return plain


def load_product(upstream: Mapping[str, str] | str | Path) -> JsonObject:
    """Read the product of an upstream stage as plain JSON, checked, e.g. ``load_product(upstream['features'])``.

    Raises
    ------
    ProductError
        It does not fit its stage's model.
    """
    path = _path(upstream)
    content = storage.read_json(path)
    parse(content, str(path))
    return content


def load_kept(path: Path | str) -> JsonObject:
    """Read a product that cannot be made again, checked, in the present form: one that the ledger cites, or of a past period.

    Raises
    ------
    ProductError
        It does not fit its stage's model.
    """
    content = forms.brought_up(storage.read_json(path))
    parse(content, str(path))
    return content


def load_monitoring(path: Path | str) -> MonitoringJson:
    """Read the product of a monitored period: see `load_kept`."""
    return cast(MonitoringJson, load_kept(path))


def load(upstream: Mapping[str, str] | str | Path, kind: type[Kind]) -> Kind:
    """Read the product of an upstream stage as its model, e.g. ``load(upstream['features'], Features)``.

    A stage that reads a product in this way depends on the fields that it uses; in any other way, on the whole product.

    Raises
    ------
    ProductError
        It is another stage's, of an older form, or does not fit the model.
    """
    path = _path(upstream)
    with reads.loading():
        product = parse(storage.read_json(path), str(path))
    reads.follow(product, path)
    if not isinstance(product, kind):
        raise ProductError(
            f"is the product of {product.stage!r}, expected {kind.__name__}", str(path), _again(product.stage)
        )
    return product


def read(path: Path | str) -> Product:
    """Read any stage's product as its model.

    Raises
    ------
    ProductError
        It is of an older form, or does not fit the model.
    """
    return parse(storage.read_json(path), str(path))


def read_kept(path: Path | str) -> Product:
    """Read a product that cannot be made again as its model: see `load_kept`.

    Raises
    ------
    ProductError
        It does not fit its stage's model.
    """
    return parse(forms.brought_up(storage.read_json(path)), str(path))


def verdict_of(product: Product) -> Verdict:
    """The verdict of a gate; a gate of a project's own states it as a dict."""
    if isinstance(product, (NeedGate, ValidationGate)):
        return product.verdict
    stated = verdict.stated((product.model_extra or {}).get("verdict"))
    checks: list[Any] = [*(stated["evidence"] or [])]
    word: Any = stated["verdict"]
    return Verdict(
        gate=stated.get("gate") or product.stage.removesuffix("_gate"), verdict=word, deciding=stated["deciding"] or "",
        evidence=[Evidence(**{**dict.fromkeys(Evidence.model_fields), "unit": "", **check}) for check in checks],
        reasons=stated["reasons"] or [], must_change=stated["must_change"] or [],
    )  # fmt: skip


def parse(content: Any, where: str = "") -> Product:
    """The product that JSON's content holds.

    Raises
    ------
    ProductError
        It is of an older form, or does not fit the model.
    """
    if older := older_form(content):
        raise ProductError(older, where, _again(content.get("stage") if isinstance(content, dict) else ""))
    model = MODELS.get(content["stage"], Own)
    try:
        return model.model_validate_json(json.dumps(content))
    except ValidationError as error:
        sentences = "; ".join(_sentence(mistake) for mistake in error.errors()[:3])
        more = f" (and {error.error_count() - 3} more)" if error.error_count() > 3 else ""
        raise ProductError(f"{sentences}{more}", where, _again(content["stage"])) from error


def _path(upstream: Mapping[str, str] | str | Path) -> str | Path:
    return upstream["data"] if isinstance(upstream, Mapping) else upstream


def _again(stage: Any) -> str:
    return f"Make it again: mlloop run --from {stage}" if stage in MODELS else "Make it again: mlloop run"


def _sentence(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    what = {"missing": "is missing", "extra_forbidden": "is not a field of this product"}.get(error["type"])
    return f"{field!r} {what or 'holds ' + repr(error['input'])[:60] + ': ' + error['msg'].lower()}"
