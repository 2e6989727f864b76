"""What modules hand to each other as plain JSON, with the type of every key.

A stage computes dictionaries, and `mlloop.products` checks them when they are written and read. The types here name their
keys before that: a key that is misspelt or missing is an error of the type checker. `XJson` has the keys of `products.X`,
which a test compares. Figures are numbers here; where one could not be measured the product holds None.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, NotRequired, TypeAlias, TypedDict

# a document whose keys are not named here: a notebook, a statement as YAML has it, the facts of an entry of the ledger, a
# schema, the configuration or the report of another program
JsonObject: TypeAlias = dict[str, Any]

# values by name that a person or a candidate chooses: the parameters of a run, hyperparameters, the options of a library
Parameters: TypeAlias = dict[str, Any]

# a row of a table: column -> value
Row: TypeAlias = dict[str, Any]

# what the `fit` of an estimator takes: X, y and weight, or events, items and features
FitData: TypeAlias = dict[str, Any]


class NumberRange(TypedDict):
    """Where to search for a number; `log`: on a logarithmic scale."""

    low: float
    high: float
    log: NotRequired[bool]


# where to search for hyperparameters: a list of choices, or a range
SearchSpace: TypeAlias = dict[str, list[Any] | NumberRange]


class FoldJson(TypedDict):
    """A cut of time: what is learned from before, what is tested on after; ISO."""

    train_until: str
    test_from: str
    test_until: str


WindowsJson = TypedDict(
    "WindowsJson",
    {
        "as_of": str,
        "from": str,
        "train_until": str,
        "holdout_from": str,
        "holdout_until": str,
        "folds": list[FoldJson],
    },
)
"""How time is cut; ISO."""


class TableJson(TypedDict):
    """One version of a table of the lake."""

    name: str
    uri: str
    version: int
    rows: int
    digest: str


class EvidenceJson(TypedDict):
    """A check's figure, and how it went (None: left open)."""

    name: str
    value: float | None
    unit: str | None
    low: float | None
    high: float | None
    threshold: float | None
    passed: bool | None


class EstimateJson(TypedDict):
    """A figure with its interval and the rows, users or folds it is of."""

    value: float
    low: float
    high: float
    n: int


class IntervalJson(TypedDict):
    """A figure with its interval."""

    value: float
    low: float
    high: float


class DecisionThresholdJson(TypedDict):
    """The score from which a row is predicted positive; `source`: 'money', 'metric' or 'default'."""

    value: float
    source: str


class LeftOutJson(TypedDict):
    """A column that is not used, and why."""

    column: str
    why: str


class UnconfirmedColumnJson(TypedDict):
    """A column that may be known too late: its sign, and what a cheap model gives with and without it."""

    column: str
    sign: str
    value: float
    without: float
    rests: bool


class CleanedColumnJson(TypedDict):
    """The type in which a column begins and ends, and what its contract says of its values."""

    begins: str
    ends: str
    contract: JsonObject


class CleaningGroupJson(TypedDict):
    """Columns that depend on one another, and the SQL over a table `asked` that cleans them."""

    inputs: list[str]
    outputs: list[str]
    touched: bool
    sql: str


class RowCleaningJson(TypedDict):
    """How a single row of a table is cleaned; `wanted`: the columns that a release needs of it."""

    columns: dict[str, CleanedColumnJson]
    added: list[str]
    reads: dict[str, list[str]]
    groups: list[CleaningGroupJson]
    wanted: NotRequired[list[str]]


# ---------------------------------------------------------------------------------------------- the data


class ArrivedJson(TypedDict):
    """What came in a period: batches of each source, and tables, rejected rows and counts as ingestion gives them."""

    batches: dict[str, list[JsonObject]]
    tables: dict[str, Any]
    rejected: dict[str, Any]
    counts: dict[str, dict[str, int]]


class VersionJson(TypedDict):
    """A version of a table of the lake; `time` in milliseconds since 1970."""

    version: int
    time: int
    operation: str
    batches: list[str]
    notes: JsonObject


class BatchJson(TypedDict):
    """Raw rows that were fetched once: where they lie, their digests, how many they are, and what they cover."""

    path: str
    digest: str
    rows: int
    format: str
    origin: str
    source_digest: str
    since: NotRequired[str | None]
    watermark: NotRequired[str | None]


class TargetFactsJson(TypedDict):
    """What analysis found about the target: its mean, what is related to it, and columns that look like a leak."""

    target: JsonObject
    association: list[JsonObject]
    segments: list[JsonObject]
    suspects: list[JsonObject]
    asked: list[JsonObject]


FactsJson = TypedDict(
    "FactsJson",
    {
        "columns": list[JsonObject],
        "newest": str | None,
        "rows": int,
        "sampled": int,
        "from": str | None,
        "until": str | None,
        "target": JsonObject,
        "association": list[JsonObject],
        "segments": list[JsonObject],
        "suspects": list[JsonObject],
        "asked": list[JsonObject],
        "trend": JsonObject,
        "seasons": dict[str, JsonObject],
        "kinds": dict[str, int],
        "users": int,
        "buyers": int,
        "items": int,
        "items_bought": int,
        "catalogue": int,
        "concentration": JsonObject,
        "loyalty": JsonObject,
        "newcomers": JsonObject,
        "sessions": JsonObject,
        "hours": dict[int, int],
        "questions": list[JsonObject],
    },
    total=False,
)
"""What analysis found, each fact as the function of its name gives it; a task has the facts that fit it."""


# ---------------------------------------------------------------------------------------------- the need gate


class FoldedEstimateJson(EstimateJson):
    """An estimate over folds, with each fold's value."""

    folds: list[float]


class FoldedContenderJson(TypedDict):
    """A contender of the need gate over the folds."""

    name: str
    kind: str
    meaning: str
    metric: EstimateJson
    worth: EstimateJson
    folds: list[float]


class NeedFiguresJson(TypedDict):
    """What the need gate decides on."""

    task: str
    metric: str
    data: dict[str, int]
    contenders: list[FoldedContenderJson]
    model: str
    best_rule: str
    best_paying: str
    gain: FoldedEstimateJson
    more_worth: EstimateJson
    left_out: list[LeftOutJson]
    timeless: bool
    asked: NotRequired[list[UnconfirmedColumnJson]]
    in_file_order: NotRequired[bool]
    repeated: NotRequired[int]
    without_asked: NotRequired["NeedFiguresJson"]


# ---------------------------------------------------------------------------------------------- from features to a model


class FeatureJson(TypedDict):
    """A feature as the catalogue lists it."""

    name: str
    meaning: str
    unit: str
    source: str


class FeaturesJson(TypedDict):
    """The tables that models learn from and are judged on, and the definition of their columns."""

    kind: str
    tables: dict[str, TableJson]
    windows: WindowsJson | None
    features: list[str]
    catalogue: list[FeatureJson]
    left_out: list[LeftOutJson]
    definition: str
    changed_by_the_future: list[str]
    asked: NotRequired[list[UnconfirmedColumnJson]]
    row_cleaning: NotRequired[list[RowCleaningJson]]
    cheap: NotRequired[EstimateJson | None]


class LearnableJson(TypedDict):
    """What a model needs of the product of `features` to learn: its tables, how time is cut, and the columns it sees."""

    tables: Mapping[str, Any]
    windows: WindowsJson | None
    features: list[str]


class RecipeJson(TypedDict):
    """An untrained estimator: a candidate with its hyperparameters; `cut`: the threshold of its folds, if it needed one."""

    name: str
    params: Parameters
    seed: int
    digest: str
    cut: NotRequired[float | None]


class RegisteredJson(TypedDict):
    """A model's version in MLflow's registry."""

    name: str
    version: int
    digest: str
    form: str


class ModelJson(TypedDict):
    """A trained model: where its files are, and what identifies them."""

    name: str
    path: str
    digest: str
    form: str
    recipe: RecipeJson
    registered: NotRequired[RegisteredJson | None]


LearntFromJson = TypedDict(
    "LearntFromJson", {"rows": int, "from": dt.datetime | str | None, "until": dt.datetime | str | None}
)
"""What a model has learned from: rows (or events), and the period; ISO."""


class JudgedJson(TypedDict):
    """One of the models that stand for the recipe in a rolling-origin evaluation."""

    path: str
    digest: str
    form: str
    learnt_until: NotRequired[str | None]
    since: NotRequired[str | None]
    until: NotRequired[str | None]
    rows: int
    lookback: NotRequired[str | None]
    half: NotRequired[bool | None]
    part: NotRequired[int | None]


class LookbackCandidateJson(TypedDict):
    """One way to choose how far back to learn, and how it did forward in time."""

    name: str
    kind: str
    recipe: NotRequired[str]
    days: NotRequired[float | None]
    since: NotRequired[str | None]
    half_life_days: NotRequired[float | None]
    rows: int
    value: float
    low: float
    high: float
    behind: NotRequired[IntervalJson | None]
    chosen: bool


class LookbackJson(TypedDict):
    """How far back a retraining learns, and what that was chosen from."""

    candidates: list[LookbackCandidateJson]
    chosen: str
    halves: list[str]
    by: str
    n: int
    blocks: list[list[str]]
    changed_at: NotRequired[str | None]
    detected_at: NotRequired[str | None]


class TrainedJson(TypedDict):
    """What a candidate came to in the folds."""

    name: str
    kind: str
    meaning: str
    complexity: int
    params: Parameters
    folds: list[float]
    mean: float
    low: float
    high: float
    n: int
    behind: IntervalJson


class TrialJson(TypedDict):
    """One try of a candidate's hyperparameters, with its value in each fold."""

    candidate: str
    params: Parameters
    values: list[float]
    is_pruned: bool


class ChosenJson(TypedDict):
    """The selected candidate; `cut`: the threshold at which its metric was best in the folds."""

    name: str
    params: Parameters
    cut: NotRequired[float | None]


class ExplorationJson(TypedDict):
    """Every candidate and trial, and the chosen one."""

    metric: str
    candidates: list[TrainedJson]
    trials: list[TrialJson]
    stopped: list[str]
    chosen: ChosenJson


# ---------------------------------------------------------------------------------------------- the evaluation


class NamedEstimateJson(EstimateJson):
    """A metric of the holdout, in its unit."""

    name: str
    label: str
    unit: str


class ContenderJson(TypedDict):
    """The model, or what it is compared with, on the holdout; `gain`: how much better the model is."""

    name: str
    kind: str
    meaning: str
    metric: EstimateJson
    worth: EstimateJson
    gain: NotRequired[EstimateJson]
    more_worth: NotRequired[EstimateJson]


class SliceJson(TypedDict):
    """The metric in one group; `gap`: how much worse than overall; None where it cannot be measured."""

    slice: str
    group: str
    n: int
    value: float | None
    low: float | None
    high: float | None
    gap: float | None


class MeasuredSliceJson(TypedDict):
    """A group in which the metric could be measured."""

    slice: str
    group: str
    n: int
    value: float
    low: float
    high: float
    gap: float


class CalibrationBinJson(TypedDict):
    """A tenth of the scores: what was predicted and what happened."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


class LatencyJson(TypedDict):
    """Bounds below which the median and the 99th percentile of one prediction's time stay."""

    p50_below_ms: float
    p99_below_ms: float
    calls: int


class ExamplesJson(TypedDict):
    """Questions and the model's answers, for a fresh process to repeat: rows of columns, or users."""

    answers: list[Any]
    rows: NotRequired[dict[str, list[Any]]]
    numbers: NotRequired[list[str]]
    users: NotRequired[list[str]]


class AgainstChampionJson(TypedDict):
    """The gain over the champion on rows that neither has learned; `gain` is None where they cannot be compared."""

    said: str
    digest: str | None
    gain: EstimateJson | None
    since: NotRequired[str | None]
    n: NotRequired[int]
    newest: NotRequired[EstimateJson | None]
    metric: NotRequired[EstimateJson]
    more_worth: NotRequired[EstimateJson]
    over_rule: NotRequired[EstimateJson]
    accepted: NotRequired[list[str]]
    unjudged_groups: NotRequired[list[str]]
    follow_up: NotRequired[bool]


class JudgedPeriodJson(TypedDict):
    """The metric in one period of a rolling-origin evaluation; ISO."""

    since: str | None
    until: str | None
    learnt_until: str | None
    n: int
    value: float | None
    low: float | None
    high: float | None


class GroupFallJson(TypedDict):
    """How much worse the refit is than the judged models in a group."""

    slice: str
    group: str
    n: int
    fall: float


class RefitJson(TypedDict):
    """How far the released refit differs from the models that were judged."""

    model: str
    judged: list[str]
    rows: int
    differs: float
    unit: str
    bound: float
    gain: NotRequired[IntervalJson | None]
    slices: NotRequired[list[GroupFallJson] | None]


class EvaluationJson(TypedDict, total=False):
    """Everything that the holdout showed, as the evaluation gathers it; a gate counts what is missing as a No."""

    model: str
    main: EstimateJson
    metrics: list[NamedEstimateJson]
    contenders: list[ContenderJson]
    best_rule: int
    threshold: DecisionThresholdJson | None
    champion: AgainstChampionJson
    slices: list[SliceJson]
    slices_missing: list[str]
    calibration: list[CalibrationBinJson] | None
    latency: LatencyJson
    tables: dict[str, TableJson]
    reference: JsonObject
    examples: ExamplesJson
    periods: list[JudgedPeriodJson] | None
    parts: int | None
    refit: RefitJson | None
    asked: list[UnconfirmedColumnJson]
    inspection: JsonObject | None


# ---------------------------------------------------------------------------------------------- the validation gate


class ReproductionJson(TypedDict):
    """How many predictions a fresh process repeats: `same` of `asked`; None: it gave none."""

    asked: int
    same: int | None
    said: str


class AttainableModelJson(IntervalJson):
    """A model that could answer, and its figure."""

    model: str


class AttainableRuleJson(IntervalJson):
    """A rule that could answer, and its figure."""

    name: str


class GainsJson(TypedDict):
    """How much better each of three is than the next, on the same rows."""

    challenger_over_rule: EstimateJson | None
    challenger_over_champion: EstimateJson | None
    champion_over_rule: EstimateJson | None


class AttainableJson(TypedDict):
    """What is attainable now, and who of challenger, champion and rule gives it."""

    metric: str
    label: str
    n: int
    best: str
    usable: bool
    challenger: AttainableModelJson
    champion: AttainableModelJson | None
    rule: AttainableRuleJson | None
    gains: GainsJson
    said: str


# ---------------------------------------------------------------------------------------------- monitoring


PeriodJson = TypedDict("PeriodJson", {"from": str, "until": str})
"""From (included) until (not included), ISO."""


class FigureJson(TypedDict):
    """A figure with its 95 % interval, its standard error and the rows or users it is of."""

    value: float
    low: float
    high: float
    se: float
    n: int


class ComparisonJson(TypedDict):
    """How much worse than the reference (positive is worse), in the metric and in standard errors."""

    worse_by: float
    standard_errors: float


class FeedFindingJson(TypedDict):
    """One thing that is wrong with the feed."""

    table: str
    column: str | None
    kind: str
    value: float
    threshold: float
    said: str


class FeedStatusJson(TypedDict):
    """Whether the feed is in order, with the findings, faults first."""

    status: str
    findings: list[FeedFindingJson]


class FeedJson(FeedStatusJson):
    """The state of the feed, the rows of each stream in the period, and the columns that were read as missing."""

    rows: dict[str, int]
    withheld: NotRequired[list[str]]


class GatheredFeedJson(TypedDict):
    """What was found wrong with the feed, the rows of each stream, and the columns that were read as missing."""

    findings: list[FeedFindingJson]
    rows: dict[str, int]
    withheld: NotRequired[list[str]]


class DriftedColumnJson(TypedDict):
    """How far a column's distribution lies from the reference."""

    name: str
    method: str
    value: float
    threshold: float
    alert: bool


class NotComparedJson(TypedDict):
    """A column that could not be compared, and why."""

    name: str
    why: str


class DistributionBinJson(TypedDict):
    """The share of the rows of the reference and of the period in a bin."""

    label: str
    reference: float
    period: float


class DistributionJson(TypedDict):
    """A column of the reference and of the period in the same bins; `unseen`: the share of new values (None for numbers)."""

    name: str
    bins: list[DistributionBinJson]
    missing_reference: float
    missing_period: float
    unseen: NotRequired[float | None]


class DriftJson(TypedDict):
    """How the period's input differs from the reference."""

    columns: list[DriftedColumnJson]
    rows: int
    left_out: list[NotComparedJson]
    said: str
    distributions: NotRequired[list[DistributionJson]]


class ExplanationJson(DriftedColumnJson):
    """How much a column's drift explains, and in how many of the periods before it had drifted."""

    weight: float
    explains: float
    alerts_before: int


class GroupFigureJson(TypedDict):
    """The metric in a group, and its rows."""

    slice: str
    group: str
    value: float
    n: int


class SegmentJson(GroupFigureJson, ComparisonJson):
    """The metric in a group of the period, beside the reference; `by`: 'labels' or 'estimate'."""

    reference: float
    by: str


class ExplainsJson(TypedDict):
    """Which columns and which groups explain a change."""

    features: list[ExplanationJson]
    segments: list[SegmentJson]


class PeriodFigureJson(TypedDict):
    """A period's figure and how much worse it is than the reference; None where there is no figure."""

    value: float | None
    low: float | None
    high: float | None
    se: float | None
    worse_by: float | None
    standard_errors: float | None


class EstimatedJson(PeriodFigureJson):
    """What is estimated of a period without its labels; `value` is None where nothing could be."""

    metric: str
    reference: FigureJson
    methods: dict[str, FigureJson]
    trusted: bool
    why: str
    spread: NotRequired[float | None]
    unreached: NotRequired[float | None]


class WorthGainJson(TypedDict):
    """How much more a row would have earned, and the standard error of that; None where decisions have no price."""

    worth_gain: float | None
    worth_se: float | None


class GainJson(TypedDict):
    """How much better somebody was on the same rows, the standard error of that, and the rows."""

    gain: float
    se: float
    n: int


class OtherJson(WorthGainJson):
    """Who else could have answered, on the same rows; `gain`: how much better than the model that did."""

    model: str
    name: str
    kind: str
    value: float
    gain: float
    low: float
    high: float
    se: float
    standard_errors: float
    n: int


class RealisedJson(PeriodFigureJson):
    """What the labels of a period showed; `value` is None where they show nothing."""

    period: PeriodJson
    model: str
    reference: FigureJson
    estimated_then: float | None
    n: int
    labels_missing: float
    trusted: bool
    why: str
    level_errors: NotRequired[float | None]
    others: list[OtherJson]


class ServedJson(TypedDict):
    """How long predictions took in production."""

    p50_ms: float | None
    p99_ms: float | None
    limit_ms: float
    n: int


class ErrorsJson(TypedDict):
    """Predictions that failed."""

    n: int
    share: float


class PredictedPeriodJson(TypedDict):
    """How many rows were predicted in a period, how fast, and how many failed."""

    rows: int
    latency: ServedJson
    errors: ErrorsJson


class CalibrationJson(TypedDict):
    """The calibration on the newest period with labels."""

    period: PeriodJson
    groups: list[CalibrationBinJson]


class ObservedJson(PredictedPeriodJson):
    """What was seen of the model in production in one period, before it is judged."""

    problem: str
    as_of: str
    period: PeriodJson
    model: str
    since: str
    feed: FeedJson
    drift: DriftJson
    estimated: EstimatedJson
    realised: list[RealisedJson]
    calibration: CalibrationJson | None
    explains: ExplainsJson


class MonitoringJson(ObservedJson):
    """A period's monitoring: what was seen, and the health of the model."""

    health: str
    said: str
    alert: bool


class RetrainingDecisionJson(TypedDict):
    """What was decided for one period."""

    action: str
    verdict: str
    said: str
    change: str
    evidence: list[EvidenceJson]


class AttemptJson(TypedDict):
    """What the next retraining is measured against, see `turn.attempted`; `new`: labels that came since the attempt at `at`."""

    until: str
    rows: int
    n: int
    gap: float | None
    se: float | None
    at: NotRequired[str]
    outcome: NotRequired[str]
    new: NotRequired[int]


class EndedJson(TypedDict):
    """What came of a 'fallback', a 'canary' or a 'retraining' in a turn."""

    what: str
    model: str | None
    outcome: str
    reasons: list[str]


class RetrainEndJson(TypedDict):
    """What a retraining came to, as the ledger's row has it."""

    verdict: str
    model: str | None
    reasons: list[str]
    details: JsonObject


class HappenedJson(TypedDict):
    """Something that happened at a moment (ISO), in a word."""

    as_of: str
    word: str


# ---------------------------------------------------------------------------------------------- a history


class PolicyFigureJson(IntervalJson):
    """The metric of a period under a policy, and what its decisions were worth."""

    worth: float


# a period under each policy: since and until (ISO), n, and by the policy's name its `PolicyFigureJson`
ComparedPeriod: TypeAlias = dict[str, Any]


class PolicyTotalJson(TypedDict):
    """A policy over all periods: its mean metric, retrainings, and worth less their cost."""

    metric: float
    retrainings: int
    worth: float
    cost: float
    net: float


class TurnLineJson(TypedDict):
    """A turn as the summary of a history lists it."""

    at: str
    action: str
    verdict: str | None
    said: str
    health: str


class HistoryJson(TypedDict):
    """What a replayed history came to; `gated`: totals of fixed schedules that a backtest replayed through gate and canary.

    `priced`: whether the statement says what a prediction is worth; otherwise policies are compared by their figure.
    """

    problem: str
    metric: str
    target: float
    currency: str
    until: str
    ledger: str
    turns: list[TurnLineJson]
    events: list[HappenedJson]
    periods: list[ComparedPeriod]
    totals: dict[str, PolicyTotalJson]
    against: dict[str, IntervalJson]
    best_fixed: str | None
    policies: dict[str, str]
    note: str
    gated: NotRequired[dict[str, PolicyTotalJson]]
    priced: NotRequired[bool]
    seconds: NotRequired[float]


class PolicyLineJson(TypedDict):
    """A policy in a backtest; `surely`: the lower end of its gain over the statement's policy when all tried are counted."""

    policy: str
    said: str
    gates: bool
    retrainings: int
    worth: float
    cost: float
    net: float
    gain: IntervalJson
    surely: float


class PolicyJson(TypedDict):
    """What differs from the statement's `retrain`, and how it is called."""

    name: str
    said: str
    changes: Parameters


class ReplayedPolicyJson(PolicyJson):
    """A policy that was replayed, with what happened."""

    events: list[HappenedJson]


class BacktestJson(TypedDict):
    """The worth of each policy on the same periods, and which to choose; `line`: the line for the statement."""

    problem: str
    currency: str
    periods: list[list[str]]
    rows: list[PolicyLineJson]
    chosen: str
    line: str
    said: str
    block: int
    replays: dict[str, ReplayedPolicyJson]


# ---------------------------------------------------------------------------------------------- releases and predictions


class CurveJson(TypedDict):
    """A rising curve from score to probability, by its knots."""

    score: list[float]
    probability: list[float]


class RuleDefinitionJson(TypedDict, total=False):
    """A rule as release.json has it: SQL of its score, the columns it reads with their types, and what stands for a gap."""

    name: str
    meaning: str
    score: str
    columns: dict[str, str]
    fill: float
    curve: CurveJson


class ReleaseCardJson(TypedDict, total=False):
    """release.json: what a release predicts, from which fields, by which model or rule."""

    format: int
    problem: str
    kind: str
    name: str
    model: str
    form: str
    fields: list[JsonObject]
    features: list[JsonObject]
    definitions: dict[str, str]
    cleaning: list[RowCleaningJson]
    made_of: dict[str, list[str]]
    entity: str | None
    calibration: CurveJson | None
    classes: list[Any] | None
    positive_at: int | None
    cut: float
    cut_from: str
    shift: float
    recalibrated_until: str
    counted_until: str
    withheld: list[str]
    k: int
    repeats: bool
    rule: RuleDefinitionJson


class ReadyRuleJson(TypedDict):
    """The best rule's release; `release` is None where it cannot be made, and `note` says why."""

    name: str
    model: str
    release: str | None
    note: str


class PredictionJson(TypedDict, total=False):
    """What a release predicts for a row: score and prediction, or items."""

    score: float
    prediction: Any
    items: list[str]


class AnswerJson(PredictionJson, total=False):
    """A prediction as the service returns it."""

    prediction_id: str
    threshold: float
    threshold_from: str
    model: str
    role: str


class PredictionRecordJson(PredictionJson, total=False):
    """A prediction as its log keeps it, with the request that asked for it; `error`: why a canary failed."""

    id: str
    at: str
    problem: str
    model: str
    release: str
    role: str
    entity: str | None
    row: Row
    ms: float | None
    error: str


class RefusedRowJson(TypedDict):
    """A row of a table that breaks the contract: its position, and what is wrong with it."""

    row: int
    reason: str


class RequestErrorJson(TypedDict):
    """What is wrong with a request: where, and why."""

    loc: list[Any]
    msg: str
    type: str
