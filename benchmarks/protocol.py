"""Judges recommenders by the public protocol: one item of each user left out, among 99 that the user never touched; a tie never helps the model."""

import gzip
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from mlloop.core import metrics
from mlloop.core.errors import DataError, ModelError
from mlloop.core.metrics import Estimate
from mlloop.models import candidates
from mlloop.models.recommenders import Recommender


@dataclass(frozen=True)
class Protocol:
    """A data set under the protocol.

    Attributes
    ----------
    train : DataFrame
        user, item, time.
    users : ndarray (n,)
    candidates : ndarray (n, 1 + n_negatives)
        The item left out, then the negatives.
    items : DataFrame
        Column item: every item there is.
    """

    train: pd.DataFrame
    users: np.ndarray
    candidates: np.ndarray
    items: pd.DataFrame


SUFFIXES = (".train.rating", ".test.rating", ".test.negative")


def read(
    path: Path | str, negatives: int = 99, seed: int = 0, columns: tuple[str, str, str] = ("user", "item", "time")
) -> Protocol:
    """A data set from files of the NCF format, or from a CSV of interactions.

    Parameters
    ----------
    path : Path or str
        The prefix of the three files (plain or .gz), e.g. 'data/ml-1m', their folder or one of them; or a CSV (also
        .gz), from which the protocol is made.
    negatives, seed
        For a CSV: how many items to draw for each user, and from which seed.
    columns : (str, str, str)
        For a CSV: its columns of user, item and time.

    Raises
    ------
    DataError
        A file is missing or not in this format.
    """
    prefix = _prefix(path)
    if prefix:
        return _from_files(prefix)
    if not Path(path).is_file():
        raise DataError(
            f"neither {path}.train.rating nor a CSV is there", str(path), "Give the prefix of the three files, or a CSV"
        )
    table = pd.read_csv(path)
    missing = [c for c in columns if c not in table]
    if missing:
        raise DataError(
            f"has no column {missing} (columns: {list(table.columns)})",
            str(path),
            "Name them: read(path, columns=(user, item, time))",
        )
    table = table[list(columns)].set_axis(["user", "item", "time"], axis=1).dropna()
    if not pd.api.types.is_numeric_dtype(table["time"]):
        table["time"] = pd.to_datetime(table["time"])
    return split(table, negatives, seed)


def _prefix(path: Path | str) -> str | None:
    """The prefix of the three files that `path` means; None where there are none."""
    text = _without_suffix(str(path))
    if Path(text).is_dir():
        found = sorted(
            {_without_suffix(str(p)) for end in ("", ".gz") for p in Path(text).glob(f"*{SUFFIXES[0]}{end}")}
        )
        if len(found) > 1:
            raise DataError(f"holds several data sets: {', '.join(map(repr, found))}", text, "Name one of them")
        text = found[0] if found else text
    return text if _file(text, SUFFIXES[0]).is_file() else None


def _without_suffix(text: str) -> str:
    for suffix in SUFFIXES:
        text = text.removesuffix(f"{suffix}.gz").removesuffix(suffix)
    return text


def _file(prefix: str, suffix: str) -> Path:
    """The file of that suffix, packed (.gz) where there is no plain one."""
    plain, packed = Path(f"{prefix}{suffix}"), Path(f"{prefix}{suffix}.gz")
    return packed if packed.is_file() and not plain.is_file() else plain


def _opened(place: Path):
    return gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8")


def _from_files(prefix: str) -> Protocol:
    train_place, test_place, negative = (_file(prefix, suffix) for suffix in SUFFIXES)
    train = _ratings(train_place)
    pairs, lists = _negatives(negative)
    if test_place.is_file():
        test = _ratings(test_place)
        stated = list(zip(test["user"], test["item"], strict=True))
        wrong = next(
            (n for n, (a, b) in enumerate(zip(pairs, stated, strict=False)) if a != b), min(len(pairs), len(stated))
        )
        if stated != pairs:
            ours, theirs = (one[wrong] if wrong < len(one) else "no more lines" for one in (pairs, stated))
            raise DataError(
                f"has {ours} where {test_place} has {theirs}",
                f"{negative}:{wrong + 1}",
                "The two files must name the same pairs in the same order",
            )
    return _whole(_timed(train), np.array([user for user, _ in pairs], dtype=object), np.array(lists, dtype=object))


def _ratings(place: Path) -> pd.DataFrame:
    """user, item (text) and time (number; NaN where there is none) of a file of ratings."""
    with _opened(place) as file:
        apart = "\t" if "\t" in file.readline() else r"\s+"
    how: dict[str, Any] = {"sep": apart, "header": None, "dtype": str, "keep_default_na": False, "index_col": False}
    try:
        table = pd.read_csv(place, **how)
    except ValueError as error:  # pandas' own errors are such
        raise DataError(f"cannot be read: {str(error).strip()}", str(place), "Check the file") from error
    if table.shape[1] < 2:
        raise DataError(
            f"expected user, item, rating, timestamp, separated by tabs, got {table.iloc[0, 0]!r}",
            f"{place}:1",
            "Check the file",
        )
    when = pd.to_numeric(table[3], errors="coerce") if 3 in table else np.nan
    return pd.DataFrame({"user": table[0].str.strip(), "item": table[1].str.strip(), "time": when})


def _negatives(place: Path) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The pair of each line, and its candidates: the item left out, then the negatives."""
    if not place.is_file():
        raise DataError("is missing", str(place), "Put it beside the other two, or give a CSV of interactions")
    pairs: list[tuple[str, str]] = []
    lists: list[list[str]] = []
    with _opened(place) as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        pair, *drawn = line.rstrip().split("\t")
        user, comma, item = (part.strip() for part in pair.strip(" ()").partition(","))
        if not comma or not drawn or not item:
            said = f"expected '(user,item)' and negatives, separated by tabs, got {line[:60]!r}"
            raise DataError(said, f"{place}:{number}", "Check the file")
        if lists and len(drawn) != len(lists[0]) - 1:
            said = f"has {len(drawn)} negatives, the lines before have {len(lists[0]) - 1}"
            raise DataError(said, f"{place}:{number}", "Check the file")
        pairs.append((user, item))
        lists.append([item, *(one.strip() for one in drawn)])
    if not pairs:
        raise DataError("is empty", str(place), "Check the file")
    return pairs, lists


def _timed(train: pd.DataFrame) -> pd.DataFrame:
    """user, item and time as moments; numbers are seconds, beyond the year 5000 milliseconds, and missing ones the first."""
    when = train["time"]
    if pd.api.types.is_numeric_dtype(when):
        when = when.astype(float).fillna(0)
        when = pd.to_datetime(when, unit="ms" if when.max() > 1e11 else "s")
    return train.assign(time=when)[["user", "item", "time"]]


def _whole(train: pd.DataFrame, users: np.ndarray, candidates: np.ndarray) -> Protocol:
    items = np.unique(np.concatenate([train["item"].astype(str).to_numpy(), candidates.ravel().astype(str)]))
    return Protocol(train, users, candidates, pd.DataFrame({"item": items}))


def split(interactions: pd.DataFrame, negatives: int = 99, seed: int = 0) -> Protocol:
    """Leave out each user's latest interaction and draw `negatives` items for it.

    Parameters
    ----------
    interactions : DataFrame
        user, item, time; a pair counts once, at its first time.

    Raises
    ------
    DataError
        There are too few items to draw from.
    """
    table = (
        interactions.astype({"user": str, "item": str})
        .sample(frac=1, random_state=seed)
        .sort_values("time", kind="stable")
        .drop_duplicates(["user", "item"])
    )
    last = ~table["user"].duplicated(keep="last") & table["user"].duplicated(keep=False)
    table["row"], _ = pd.factorize(table["user"], sort=True)
    table["column"], items = pd.factorize(table["item"], sort=True)
    held = table[last].sort_values("row")
    touched = [set(group) for _, group in table.groupby("row")["column"]]
    rng = np.random.default_rng(seed)
    drawn = [_untouched(rng, touched[row], len(items), negatives) for row in held["row"]]
    candidates = np.hstack(
        [held["item"].to_numpy(dtype=object)[:, None], items.to_numpy(dtype=object)[np.array(drawn)]]
    )
    return _whole(_timed(table[~last]), held["user"].to_numpy(dtype=object), candidates)


def _untouched(rng, touched: set[int], items: int, count: int) -> np.ndarray:
    if items - len(touched) < count:
        raise DataError(
            f"a user has touched {len(touched)} of {items} items: {count} others cannot be drawn",
            "leave one out",
            "Ask for fewer negatives",
        )
    drawn = rng.choice(items, min(items, count + len(touched)), replace=False)
    return drawn[~np.isin(drawn, list(touched))][:count]


@dataclass(frozen=True)
class Result:
    """HR@k and NDCG@k, each the mean over users with its 95 % interval."""

    hit_rate: Estimate
    ndcg: Estimate
    k: int

    def __str__(self) -> str:
        return f"HR@{self.k} {self.hit_rate}, NDCG@{self.k} {self.ndcg}, n = {self.ndcg.n:,} users"


def ranks(model: Recommender, protocol: Protocol, chunk: int = 500) -> np.ndarray:
    """The place of each user's left-out item among its candidates, from 1, ties against it, (n,)."""
    columns = model.items_.get_indexer(pd.Index(protocol.candidates.ravel())).reshape(protocol.candidates.shape)
    found = []
    for start in range(0, len(protocol.users), chunk):
        part = slice(start, start + chunk)
        scores = model.score(protocol.users[part])
        chosen = np.where(columns[part] >= 0, np.take_along_axis(scores, np.maximum(columns[part], 0), axis=1), -np.inf)
        chosen = np.nan_to_num(chosen, nan=-np.inf)
        found.append(1 + (chosen[:, 1:] >= chosen[:, :1]).sum(axis=1))
    return np.concatenate(found)


def evaluate(model: Recommender, data: Protocol | Path | str, k: int = 10) -> Result:
    """Fit `model` to the training part and judge it on what was left out.

    Parameters
    ----------
    model : Recommender
        Unfitted.
    data : Protocol, or what `read` takes
        E.g. 'data/ml-1m' for data/ml-1m.train.rating, .test.rating and .test.negative.
    k : int

    Examples
    --------
    >>> from mlloop.recommenders import EASE
    >>> print(evaluate(EASE(l2=300), "data/ml-1m"))  # doctest: +SKIP
    """
    protocol = data if isinstance(data, Protocol) else read(data)
    place = ranks(model.fit(protocol.train, protocol.items), protocol)
    shown = place <= k
    gain = np.where(shown, 1 / np.log2(place + 1), 0.0)
    return Result(metrics.estimate_mean(shown.astype(float), draws=0), metrics.estimate_mean(gain, draws=0), k)


@dataclass(frozen=True)
class Entry:
    """A recommender of the comparison: `make(seed, **params)`, and where its parameters are searched (see `Candidate`)."""

    make: Callable[..., Recommender]
    space: dict[str, Any] = field(default_factory=dict)


def _popularity(seed: int) -> Recommender:
    from mlloop.recommenders import Popularity

    return Popularity(days=None)


def _item_knn(seed: int, neighbours=200, shrink=20.0) -> Recommender:
    from mlloop.recommenders import ItemKNN

    return ItemKNN(neighbours=neighbours, shrink=shrink)


def _ease(seed: int, l2=300.0) -> Recommender:
    from mlloop.recommenders import EASE

    return EASE(l2=l2)


def _ials(seed: int, factors=64, alpha=5.0, l2=20.0, rounds=10) -> Recommender:
    from mlloop.factors import IALS

    return IALS(factors=factors, alpha=alpha, l2=l2, rounds=rounds, seed=seed)


def _hybrid(seed: int, l2=300.0, neighbours=200, num_leaves=15, learning_rate=0.1) -> Recommender:
    from mlloop.hybrid import Hybrid

    how: dict[str, Any] = {"pool": 200, "users_each": 2000, "horizon_days": None, "repeats": False}
    return Hybrid(l2, neighbours, num_leaves=num_leaves, learning_rate=learning_rate, seed=seed, **how)


def _neural(seed: int, form="neumf", factors=64, learning_rate=0.002, weight_decay=2e-6, negatives=8) -> Recommender:
    from mlloop.neumf import NeuMF

    how: dict[str, Any] = {"epochs": 30, "patience": 4, "batch_size": 2048, "seed": seed}
    hidden = (factors, factors // 2, factors // 4)
    return NeuMF(form, factors, hidden, negatives, learning_rate=learning_rate, weight_decay=weight_decay, **how)


_NEURAL = {
    "factors": [32, 64, 128],
    "negatives": [4, 8],
    "learning_rate": {"low": 0.001, "high": 0.01, "log": True},
    "weight_decay": {"low": 1e-7, "high": 1e-5, "log": True},
}
USUAL: dict[str, Entry] = {
    "popularity": Entry(_popularity),
    "item-kNN": Entry(
        _item_knn, {"neighbours": [50, 100, 200, 400], "shrink": {"low": 1.0, "high": 300.0, "log": True}}
    ),
    "EASE": Entry(_ease, {"l2": {"low": 30.0, "high": 3000.0, "log": True}}),
    "iALS": Entry(
        _ials,
        {
            "factors": [32, 64, 128],
            "alpha": {"low": 0.5, "high": 20.0, "log": True},
            "l2": {"low": 3.0, "high": 100.0, "log": True},
        },
    ),
    "hybrid": Entry(
        _hybrid,
        {
            "l2": {"low": 30.0, "high": 3000.0, "log": True},
            "neighbours": [50, 100, 200, 400],
            "num_leaves": [7, 15, 31],
        },
    ),
    "GMF": Entry(partial(_neural, form="gmf"), _NEURAL),
    "MLP": Entry(partial(_neural, form="mlp"), _NEURAL),
    "NeuMF": Entry(_neural, _NEURAL),
}


def usual(seed: int = 0) -> dict[str, Recommender]:
    """The recommenders that are usually compared on this protocol, with parameters that do well on MovieLens-sized data."""
    return {name: entry.make(seed) for name, entry in USUAL.items()}


def tune(
    entry: Entry, data: Protocol, trials: int = 8, seed: int = 0, k: int = 10
) -> list[tuple[dict[str, Any], float]]:
    """Parameters and their NDCG@k on each user's latest training item, best first; `data` is what `inner` gives."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    one = candidates.Candidate("entry", (), entry.make, entry.space)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=4))
    study.enqueue_trial(candidates.encode_params(one.defaults, entry.space))
    found = []
    for _ in range(trials if entry.space else 1):
        asked = study.ask()
        params = candidates.suggest(asked, entry.space)
        value = evaluate(entry.make(seed, **params), data, k).ndcg.value
        study.tell(asked, value)
        found.append((params, value))
    return sorted(found, key=lambda pair: -pair[1])


def inner(data: Protocol, seed: int = 0) -> Protocol:
    """The protocol inside the training part of `data`, to search parameters on; it knows nothing of what was left out."""
    return split(data.train, data.candidates.shape[1] - 1, seed)


def compare(
    data: Protocol | Path | str,
    models: dict[str, Recommender] | Iterable[str] | None = None,
    k: int = 10,
    seed: int = 0,
    trials: int = 0,
    told: Callable[[dict[str, Any]], None] = lambda line: None,
) -> pd.DataFrame:
    """Several recommenders on the same data; one line each, best first.

    Parameters
    ----------
    data : Protocol, or what `read` takes
    models : dict of str to Recommender, or names out of `USUAL`
        Default: all of `USUAL`.
    trials : int
        Sets of parameters to try for each one named, the written ones first; 0: these only.
    told : callable, optional
        Called with each line when it is there.

    Returns
    -------
    DataFrame
        hr, hr_low, hr_high, ndcg, ndcg_low, ndcg_high, seconds (of fitting and judging), tuning_s, params; by model.

    Raises
    ------
    ModelError
        A name that is not in `USUAL`.
    """
    protocol = data if isinstance(data, Protocol) else read(data)
    own = models if isinstance(models, dict) else {}
    names = list(models if models is not None else USUAL)
    unknown = [name for name in names if name not in own and name not in USUAL]
    if unknown:
        raise ModelError(
            f"no recommender {unknown[0]!r} (there are: {', '.join(USUAL)})", "leave one out", "Name one of them"
        )
    within = inner(protocol, seed) if trials and not own else None

    def judged(name: str) -> dict[str, Any]:
        began, params = time.monotonic(), {}
        if within is not None:
            params = tune(USUAL[name], within, trials, seed, k)[0][0]
        tuned = time.monotonic()
        result = evaluate(own[name] if own else USUAL[name].make(seed, **params), protocol, k)
        line = {
            "model": name,
            **_figures(result),
            "seconds": time.monotonic() - tuned,
            "tuning_s": tuned - began,
            "params": params,
        }
        told(line)
        return line

    with threadpool_limits(1), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        lines = list(pool.map(judged, reversed(names)))
    return pd.DataFrame(lines).set_index("model").sort_values("ndcg", ascending=False)


def _figures(result: Result) -> dict[str, float]:
    return {
        f"{what}{part}": getattr(one, name)
        for what, one in (("hr", result.hit_rate), ("ndcg", result.ndcg))
        for part, name in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
