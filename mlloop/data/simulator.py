"""XYZShopSmart, a simulated shop with a known ground truth: customers, a catalogue, clicks, purchases and data errors.

Every day is drawn from its own seed, so the rows of a day never depend on how far the world has been written: a later
`as_of` only adds days. The customers' true preferences are returned by `truth` and are in no source.
"""

import datetime as dt
import json
import shutil
import sqlite3
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from mlloop.core.errors import UsageError
from mlloop.core.storage import atomic_path, read_json, sweep, write_json, write_text

CATEGORIES = {
    "groceries": (["pasta", "coffee", "olive oil", "muesli", "tea"], 6.0, 0.10, 0),
    "drinks": (["juice", "lemonade", "sparkling water", "red wine", "stout"], 5.0, 0.35, 190),
    "household": (["detergent", "kitchen roll", "dish soap", "sponges", "candles"], 7.0, 0.05, 330),
    "beauty": (["shampoo", "hand cream", "lipstick", "soap", "perfume"], 14.0, 0.15, 340),
    "pets": (["cat food", "dog biscuits", "litter", "chew toy", "bird seed"], 12.0, 0.05, 20),
    "kitchen": (["saucepan", "chef's knife", "mixing bowl", "kettle", "grater"], 32.0, 0.20, 345),
    "garden": (["secateurs", "flower pot", "seeds", "hose", "lantern"], 24.0, 0.60, 140),
    "books": (["novel", "cookbook", "atlas", "crime story", "picture book"], 16.0, 0.30, 345),
    "toys": (["puzzle", "building blocks", "board game", "plush bear", "kite"], 22.0, 0.50, 345),
    "sports": (["yoga mat", "football", "water bottle", "racket", "running socks"], 28.0, 0.30, 130),
    "clothing": (["scarf", "t-shirt", "socks", "rain jacket", "cap"], 30.0, 0.25, 290),
    "electronics": (["headphones", "charger", "speaker", "lamp", "power bank"], 55.0, 0.35, 335),
}
STAPLES = ("groceries", "drinks", "household", "beauty", "pets")
BRANDS = """Alba Borea Cedro Dalia Elmo Fjord Gallo Hanami Istria Juno Kappel Lumen
Mistral Nordlys Opal Pomona Quill Rialto Sorrel Tamar Umbra Vesper Wicker Yarrow""".split()  # noqa: SIM905
FEEL = ["classic", "organic", "mini", "deluxe", "everyday", "soft", "fresh", "compact", "original", "extra"]
DEVICES = ["phone", "desktop", "tablet"]
WEEKDAY = np.array([0.95, 0.90, 0.92, 1.00, 1.12, 1.18, 0.93])
HOUR = np.array([2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 13, 15, 12, 10, 10, 11, 13, 16, 20, 22, 18, 10, 5], float)
SEGMENTS, STYLES, LAGS = 8, 3, 10
SCENARIOS = ("none", "taste_change")


@dataclass(frozen=True)
class Parameters:
    """The parameters of a world.

    Attributes
    ----------
    start : date
        First day of the feeds.
    customers, products : int
        Of the whole world; some join, and are listed, after the start.
    seed : int
    taste_change_at : date or None
        From this day on `taste_change_share` of the customers have other preferences.
    taste_change_share : float
        0 to 1.
    scenario : str
        One of `SCENARIOS`; 'none' leaves out the change of taste.
    """

    start: dt.date
    customers: int = 2000
    products: int = 400
    seed: int = 11
    taste_change_at: dt.date | None = None
    taste_change_share: float = 0.6
    scenario: str = "taste_change"


@dataclass(frozen=True)
class Truth:
    """The ground truth of a world; it is in no source.

    Attributes
    ----------
    customers : DataFrame
        customer_id, segment, segment_after, joined, leaves (day numbers), sessions_per_day, favourite.
    products : DataFrame
        product_id, name, category, brand, price_eur, listed_at, without the catalogue's errors.
    before, after : ndarray (n_customers, n_products)
        How likely each customer is to choose each product, before and after the change of taste; rows add up to 1.
    staples : DataFrame
        customer, product (positions), period, phase (days), era (0 before, 1 after the change): repeated purchases.
    """

    parameters: Parameters
    customers: pd.DataFrame
    products: pd.DataFrame
    before: np.ndarray
    after: np.ndarray
    staples: pd.DataFrame

    def changed(self, day: int) -> bool:
        """Whether the change of taste has happened by day number `day`."""
        p = self.parameters
        at = p.taste_change_at if p.scenario == "taste_change" else None
        return at is not None and p.start + dt.timedelta(days=day) >= at

    def liking(self, day: int) -> np.ndarray:
        """The probabilities (n_customers, n_products) of day number `day`: taste, season, and what is listed."""
        taste = self.after if self.changed(day) else self.before
        today = self.parameters.start + dt.timedelta(days=day)
        season = {
            name: 1 + swing * np.cos(2 * np.pi * (today.timetuple().tm_yday - peak) / 365)
            for name, (_, _, swing, peak) in CATEGORIES.items()
        }
        weight = (
            self.products.category.map(season).to_numpy() * (self.products.listed_at <= pd.Timestamp(today)).to_numpy()
        )
        return taste * weight


def parameters(**options) -> Parameters:
    """The parameters of a world, checked; dates may be ISO text.

    Raises
    ------
    UsageError
        An unknown parameter or scenario, or a number that is too small.
    """
    known = Parameters.__dataclass_fields__
    for name in options:
        if name not in known:
            raise UsageError(
                f"unknown parameter {name!r} (known: {', '.join(known)})",
                "simulator",
                "Fix the statement: mlloop check",
            )
    options = {
        key: _date(value) if key in ("start", "taste_change_at") and value else value for key, value in options.items()
    }
    if "start" not in options:
        raise UsageError("start is missing", "simulator", "Add its first day, such as start: 2025-03-03")
    world = Parameters(**options)
    if world.scenario not in SCENARIOS:
        raise UsageError(
            f"scenario is {world.scenario!r}, expected one of {', '.join(SCENARIOS)}", "simulator", "mlloop check"
        )
    if world.customers < 10 or world.products < 24:
        message = f"customers is {world.customers}, products is {world.products}; expected at least 10 and 24"
        raise UsageError(message, "simulator", "Fix the statement: mlloop check")
    return world


def _date(value) -> dt.date:
    if isinstance(value, dt.datetime):
        return value.date()
    return value if isinstance(value, dt.date) else dt.datetime.fromisoformat(str(value)).date()


def truth(**options) -> Truth:
    """The ground truth of the world with these parameters (see `Parameters`)."""
    return _truth(parameters(**options))


@lru_cache(maxsize=4)
def _truth(p: Parameters) -> Truth:
    rng = np.random.default_rng([p.seed, 1])
    products, style, appeal = _products(p, rng)
    customers = _customers(p, rng)
    segment_taste = rng.gamma(0.22, size=(SEGMENTS, len(CATEGORIES) * STYLES)) + 0.004
    own_taste = rng.gamma(0.15, size=(p.customers, len(CATEGORIES) * STYLES)) + 0.002
    brand_taste = np.exp(rng.normal(0, 0.7, size=(SEGMENTS, len(BRANDS))))
    spends = rng.normal(0, 0.6, size=p.customers)
    level = _price_level(products)
    brand = products.brand.map({name: i for i, name in enumerate(BRANDS)}).to_numpy()

    def taste(segment):
        styles = 0.75 * _normalised(segment_taste[segment]) + 0.25 * _normalised(own_taste)
        fits = np.exp(-((level[None, :] - spends[:, None]) ** 2) / (2 * 0.9**2))
        return _normalised(styles[:, style] * appeal[None, :] * brand_taste[segment][:, brand] * fits)

    before = taste(customers.segment.to_numpy())
    after = taste(customers.segment_after.to_numpy())
    customers["favourite"] = products.category.to_numpy()[before.argmax(axis=1)]
    staples = pd.concat([_staples(rng, era, products, liking) for era, liking in enumerate((before, after))])
    return Truth(p, customers, products, before, after, staples)


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def _price_level(products: pd.DataFrame) -> np.ndarray:
    """Log price of a product relative to the usual price of its category."""
    usual = products.category.map({name: price for name, (_, price, _, _) in CATEGORIES.items()})
    return np.log(products.price_eur / usual).to_numpy()


def _products(p: Parameters, rng) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    names = list(CATEGORIES)
    kind = rng.choice(len(names), p.products, p=_normalised(np.linspace(1.6, 0.7, len(names))))
    style = kind * STYLES + rng.integers(0, STYLES, p.products)
    brand = (kind * 2 + rng.integers(0, 6, p.products)) % len(BRANDS)
    usual = np.array([CATEGORIES[names[k]][1] for k in kind])
    price = np.round(usual * np.exp(rng.normal(0, 0.45, p.products)), 1) + 0.09
    noun = [CATEGORIES[names[k]][0][i] for k, i in zip(kind, rng.integers(0, 5, p.products), strict=True)]
    feel = rng.choice(FEEL, p.products)
    late = rng.random(p.products) < 0.12
    listed = np.where(late, rng.integers(1, 366, p.products), -rng.integers(5, 900, p.products))
    products = pd.DataFrame(
        {
            "product_id": [f"P{i + 1:04d}" for i in range(p.products)],
            "name": [f"{BRANDS[b]} {f} {n}" for b, f, n in zip(brand, feel, noun, strict=True)],
            "category": [names[k] for k in kind],
            "brand": [BRANDS[b] for b in brand],
            "price_eur": price,
            "listed_at": pd.Timestamp(p.start) + pd.to_timedelta(listed, unit="D"),
        }
    )
    return products, style, np.exp(rng.normal(0, 0.75, p.products))


def _customers(p: Parameters, rng) -> pd.DataFrame:
    segment = rng.choice(SEGMENTS, p.customers, p=_normalised(np.linspace(1.5, 0.7, SEGMENTS)))
    moved = rng.random(p.customers) < p.taste_change_share
    after = np.where(moved, (segment + rng.integers(1, SEGMENTS, p.customers)) % SEGMENTS, segment)
    joined = np.where(rng.random(p.customers) < 0.8, -1, rng.integers(0, 300, p.customers))
    stays = rng.exponential(900, p.customers).astype(int) + 10
    return pd.DataFrame(
        {
            "customer_id": [f"C{i + 1:05d}" for i in range(p.customers)],
            "segment": segment,
            "segment_after": after,
            "joined": joined,
            "leaves": joined + stays,
            "sessions_per_day": np.clip(rng.lognormal(-1.75, 0.85, p.customers), 0.01, 2.5),
        }
    )


def _staples(rng, era: int, products: pd.DataFrame, liking: np.ndarray) -> pd.DataFrame:
    """Each customer's repeated purchases: two to six products of everyday categories, each with its period."""
    everyday = np.flatnonzero(products.category.isin(STAPLES))
    weight = np.log(liking[:, everyday] + 1e-9) + rng.gumbel(size=(len(liking), len(everyday)))
    count = np.clip(2 + rng.poisson(1.5, len(liking)), 1, min(6, len(everyday)))
    best = np.argsort(-weight, axis=1)[:, : count.max()]
    customer = np.repeat(np.arange(len(liking)), count)
    rank = np.concatenate([np.arange(n) for n in count])
    period = rng.integers(7, 36, len(customer))
    return pd.DataFrame(
        {
            "customer": customer,
            "product": everyday[best[customer, rank]],
            "period": period,
            "phase": rng.integers(0, 36, len(customer)),
            "era": era,
        }
    )


def _sessions(t: Truth, day: int) -> pd.DataFrame:
    """The clean events of the sessions that began on day number `day`: one row for each product view."""
    p, c = t.parameters, t.customers
    rng = np.random.default_rng([p.seed, 2, day])
    today = p.start + dt.timedelta(days=day)
    active = ((c.joined <= day) & (day < c.leaves)).to_numpy()
    sessions = rng.poisson(c.sessions_per_day.to_numpy() * WEEKDAY[today.weekday()] * active)
    customer = np.repeat(np.arange(p.customers), sessions)
    n = len(customer)
    second = rng.choice(24, n, p=_normalised(HOUR)) * 3600 + rng.integers(0, 3600, n)
    views = np.minimum(1 + rng.poisson(1.7, n), 9)
    session = np.repeat(np.arange(n), views)
    rows = pd.DataFrame({"session": session, "customer": customer[session]})
    rows["second"] = np.minimum(second[session] + rng.integers(5, 1500, len(rows)), 86_399)
    rows["product"] = _choose_products(rng, t.liking(day), rows.customer.to_numpy())
    rows["staple"] = _replace_with_staples(rng, t, day, rows)
    chance = np.where(rows.staple, 0.72, 0.20)
    rows["cart"] = rng.random(len(rows)) < chance
    rows["bought"] = rows.cart & (rng.random(len(rows)) < 0.68)
    rows["bought_later"] = np.where(
        rows.cart & ~rows.bought & (rng.random(len(rows)) < 0.35), rng.integers(1, 4, len(rows)), 0
    )
    rows["returned_later"] = np.where(rng.random(len(rows)) < 0.035, rng.integers(3, LAGS + 1, len(rows)), 0)
    rows["quantity"] = 1 + rng.poisson(np.where(rows.staple, 0.6, 0.12))
    rows["device"] = rng.choice(3, n, p=[0.58, 0.34, 0.08])[session]
    rows["anonymous"] = (rng.random(n) < 0.07)[session]
    rows["dwell_s"] = np.round(np.clip(rng.lognormal(3.2, 0.8, len(rows)), 1, 3000), 1)
    return rows


def _choose_products(rng, liking: np.ndarray, customer: np.ndarray) -> np.ndarray:
    """A product for each row: three in four by the customer's taste, the rest by overall popularity."""
    popularity = liking.sum(axis=0)
    edges = np.cumsum(liking, axis=1)
    draw = rng.random(len(customer))
    own = (edges[customer] < (draw * edges[customer, -1])[:, None]).sum(axis=1)
    other = np.searchsorted(np.cumsum(popularity), draw * popularity.sum())
    return np.where(rng.random(len(customer)) < 0.75, own, other).clip(0, liking.shape[1] - 1)


def _replace_with_staples(rng, t: Truth, day: int, rows: pd.DataFrame) -> np.ndarray:
    """Replace the product of some rows by a due staple of their customer; returns which rows."""
    due = t.staples[t.staples.era == int(t.changed(day))]
    ready = (((day + due.phase) % due.period) / due.period).to_numpy() ** 3
    listed = (t.products.listed_at <= pd.Timestamp(t.parameters.start) + pd.Timedelta(days=day)).to_numpy()
    ready = ready * listed[due["product"].to_numpy()]
    order = np.argsort(due.customer.to_numpy(), kind="stable")
    first = np.searchsorted(due.customer.to_numpy()[order], np.arange(t.parameters.customers))
    many = np.bincount(due.customer, minlength=t.parameters.customers)
    customer = rows.customer.to_numpy()
    pick = order[(first[customer] + (rng.random(len(rows)) * many[customer]).astype(int)).clip(0, len(order) - 1)]
    take = (rng.random(len(rows)) < 0.5) & (rng.random(len(rows)) < ready[pick] * 1.5) & (many[customer] > 0)
    rows.loc[take, "product"] = due["product"].to_numpy()[pick][take]
    return take


class _World:
    """The days of one world, each drawn once."""

    def __init__(self, t: Truth):
        self.truth = t
        self.days: dict[int, pd.DataFrame] = {}
        self.arrivals: dict[int, list[list[str]]] = {}
        self.sold: dict[int, list[pd.DataFrame]] = {}

    def sessions(self, day: int) -> pd.DataFrame:
        if day not in self.days:
            self.days[day] = _sessions(self.truth, day)
            self.days.pop(day - 3, None)
        return self.days[day]

    def arriving(self, day: int) -> list[list[str]]:
        """The lines of a day's events, by how many days late they arrive."""
        if day not in self.arrivals:
            rng = np.random.default_rng([self.truth.parameters.seed, 3, day])
            events = _events(self.truth, day, self.sessions(day), rng)
            late = np.where(rng.random(len(events)) < 0.01, rng.integers(1, 3, len(events)), 0)
            lines = _lines(events, rng)
            self.arrivals[day] = [[lines[i] for i in np.flatnonzero(late == n)] for n in range(3)]
            self.arrivals.pop(day - 3, None)
        return self.arrivals[day]

    def clicks(self, day: int) -> list[str]:
        """The lines of the clickstream that arrive on `day`: its own, and the late ones of the two days before."""
        lines = [line for origin in range(max(0, day - 2), day + 1) for line in self.arriving(origin)[day - origin]]
        rng = np.random.default_rng([self.truth.parameters.seed, 4, day])
        repeated = [lines[i] for i in np.flatnonzero(rng.random(len(lines)) < 0.004)]
        position = np.arange(len(lines)) + rng.exponential(3, len(lines))
        return [lines[i] for i in np.argsort(position)] + repeated

    def sales(self, day: int) -> list[pd.DataFrame]:
        """The purchases rows that follow from the sessions of `day`, by the number of days until they are made."""
        if day not in self.sold:
            purchases = _purchases_after_sessions(self.truth, day, self.sessions(day))
            lag = purchases.pop("lag").to_numpy()
            self.sold[day] = [purchases[lag == n] for n in range(LAGS + 4)]
            self.sold.pop(day - LAGS - 4, None)
        return self.sold[day]

    def purchases(self, day: int) -> pd.DataFrame:
        """The rows of the purchases table of `day`: immediate purchases, later ones, and returns."""
        parts = [self.sales(origin)[day - origin] for origin in range(max(0, day - LAGS - 3), day + 1)]
        rng = np.random.default_rng([self.truth.parameters.seed, 5, day])
        return _with_data_errors(pd.concat(parts, ignore_index=True).sort_values(["purchased_at", "order_id"]), rng)


def _stamp(t: Truth, day: int, second) -> np.ndarray:
    base = np.datetime64(t.parameters.start, "s") + np.timedelta64(day * 86_400, "s")
    return np.datetime_as_string(base + np.asarray(second, "timedelta64[s]"))


def _events(t: Truth, day: int, rows: pd.DataFrame, rng) -> pd.DataFrame:
    cart = rows[rows.cart].assign(event="cart", second=(rows.second + 20).clip(upper=86_399))
    events = pd.concat([rows.assign(event="view"), cart]).sort_values(
        ["second", "session", "event"], ascending=[True, True, False]
    )
    customer = np.where(events.anonymous, "", t.customers.customer_id.to_numpy()[events.customer])
    clicks = pd.DataFrame(
        {
            "event_id": [f"{day:04d}-{i:06d}" for i in range(len(events))],
            "event_time": _stamp(t, day, events.second),
            "customer_id": customer,
            "product_id": t.products.product_id.to_numpy()[events["product"]],
            "event": events.event.to_numpy(),
            "device": np.array(DEVICES)[events.device],
            "dwell_s": events.dwell_s.to_numpy(),
        }
    )
    error = rng.random(len(clicks))
    clicks.loc[error < 0.0015, "dwell_s"] = -1.0
    clicks.loc[error > 0.9995, "event"] = "veiw"
    return clicks


def _lines(events: pd.DataFrame, rng) -> list[str]:
    lines = [json.dumps(row) for row in events.to_dict("records")]
    for i in np.flatnonzero(rng.random(len(lines)) < 0.0006):
        lines[i] = lines[i][: len(lines[i]) // 2]
    return lines


def _purchases_after_sessions(t: Truth, day: int, rows: pd.DataFrame) -> pd.DataFrame:
    """Purchases that follow from the sessions of a day, and returns of them; `lag` is in days."""
    rows = rows[rows.bought | (rows.bought_later > 0)].drop_duplicates(["session", "product"])
    wait = rows.bought_later.where(~rows.bought, 0)
    other = (rows.second * 7 + 3_600) % 86_400
    sold = rows.assign(lag=wait, sign=1, second=np.where(rows.bought, np.minimum(rows.second + 240, 86_399), other))
    back = rows.assign(lag=wait + rows.returned_later, sign=-1, second=other)[rows.returned_later > 0]
    rows = pd.concat([sold, back], ignore_index=True)
    orders = zip(rows.sign, rows.lag, rows.session, strict=True)
    return pd.DataFrame(
        {
            "order_id": [f"{'O' if sign > 0 else 'R'}{day:04d}-{lag}-{session:05d}" for sign, lag, session in orders],
            "purchased_at": _stamp(t, day, rows.second + rows.lag * 86_400),
            "customer_id": t.customers.customer_id.to_numpy()[rows.customer],
            "product_id": t.products.product_id.to_numpy()[rows["product"]],
            "quantity": (rows.quantity * rows.sign).to_numpy(),
            "price_eur": t.products.price_eur.to_numpy()[rows["product"]],
            "lag": rows.lag.to_numpy(),
        }
    )


def _with_data_errors(sold: pd.DataFrame, rng) -> pd.DataFrame:
    """Purchases with the errors of a real cash register: impossible prices, missing customers, repeated rows."""
    sold = sold.reset_index(drop=True)
    wrong = rng.random(len(sold))
    sold["price_eur"] = np.round(sold.price_eur * np.where(rng.random(len(sold)) < 0.12, 0.8, 1.0), 2)
    sold.loc[wrong < 0.0010, "price_eur"] = 0.0
    sold.loc[(wrong >= 0.0010) & (wrong < 0.0018), "price_eur"] *= -1
    sold.loc[(wrong >= 0.0018) & (wrong < 0.0022), "price_eur"] = 99_999.0
    sold.loc[wrong > 0.9930, "customer_id"] = ""
    repeated = sold[rng.random(len(sold)) < 0.003]
    return pd.concat([sold, repeated], ignore_index=True)


def _catalogue(t: Truth, as_of: dt.date) -> str:
    """The catalogue with typing errors: case, spaces and letters differ, two prices are impossible."""
    rng = np.random.default_rng([t.parameters.seed, 6])
    table = t.products.copy()
    wrong = rng.random((len(table), 4))
    spelt = {"category": [_misspelt(word, w) for word, w in zip(table.category, wrong[:, 0], strict=True)]}
    spelt["brand"] = [_misspelt(word, w * 1.6) for word, w in zip(table.brand, wrong[:, 1], strict=True)]
    table = table.assign(**spelt)
    table.loc[wrong[:, 2] < 0.01, "name"] = ""
    table["price_eur"] = table.price_eur.map("{:.2f}".format)
    table.loc[np.argsort(wrong[:, 3])[:2], "price_eur"] = ["-1.00", "0.00"]
    table = table[table.listed_at < pd.Timestamp(as_of)].assign(listed_at=table.listed_at.dt.strftime("%Y-%m-%d"))
    return table.to_csv(index=False, lineterminator="\n")


def _misspelt(word: str, chance: float) -> str:
    if chance < 0.03:
        return word.upper()
    if chance < 0.05:
        return f" {word.capitalize()} "
    if chance < 0.07:
        return word[:2] + word[3] + word[2] + word[4:]
    return word[:-2] + word[-1] if chance < 0.08 else word


def write_world(folder: Path | str, as_of: dt.datetime | dt.date | str, **options) -> Path:
    """Write the shop's three sources for the days before `as_of`; days already there are left as they are.

    Makes ``clicks/<day>.jsonl``, ``shop.db`` (table purchases) and ``catalogue.csv``. A kill leaves whole days only,
    and the next call writes the rest. A world with other parameters in `folder` is replaced.

    Parameters
    ----------
    folder : Path or str
    as_of : datetime, date or ISO text
        A day counts as past when it ended at or before this moment.
    **options
        See `Parameters`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        As `parameters`.
    """
    p, folder = parameters(**options), Path(folder)
    until = _date(as_of)
    _clear_other_world(folder, p)
    sweep(folder)
    world = _World(_truth(p))
    days = range(max(0, (until - p.start).days))
    paths = {day: folder / "clicks" / f"{p.start + dt.timedelta(days=day)}.jsonl" for day in days}
    for day, path in paths.items():
        if not path.exists():
            write_text(path, "".join(line + "\n" for line in world.clicks(day)))
    _write_purchases(folder / "shop.db", world, days)
    _write_catalogue(folder / "catalogue.csv", world.truth, until)
    return folder


def _clear_other_world(folder: Path, p: Parameters) -> None:
    """Empty the folder unless it holds the world of these parameters."""
    written = json.loads(json.dumps(asdict(p), default=str))
    if (folder / "world.json").exists() and read_json(folder / "world.json").get("parameters") == written:
        return
    if folder.exists():
        (folder / "world.json").unlink(missing_ok=True)
        for name in ("clicks", "shop.db", "shop.db-journal", "catalogue.csv"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_json(folder / "world.json", {"parameters": written})


def _write_purchases(path: Path, world: _World, days: range) -> None:
    """Add the days that the database lacks, in one transaction."""
    path.parent.mkdir(parents=True, exist_ok=True)
    con = sqlite3.connect(path)
    try:
        with con:
            con.execute(
                """CREATE TABLE IF NOT EXISTS purchases (order_id TEXT, purchased_at TEXT, customer_id TEXT,
                   product_id TEXT, quantity INTEGER, price_eur REAL)"""
            )
            con.execute("CREATE TABLE IF NOT EXISTS days_closed (day INTEGER PRIMARY KEY)")
            done = {row[0] for row in con.execute("SELECT day FROM days_closed")}
            for day in days:
                if day not in done:
                    rows = world.purchases(day).to_numpy(dtype=object).tolist()
                    con.executemany("INSERT INTO purchases VALUES (?, ?, ?, ?, ?, ?)", rows)
                    con.execute("INSERT INTO days_closed VALUES (?)", (day,))
    finally:
        con.close()


def _write_catalogue(path: Path, t: Truth, until: dt.date) -> None:
    """The catalogue with every product listed before `until`; never fewer than are there already."""
    text = _catalogue(t, until)
    if not path.exists() or len(path.read_text(encoding="utf-8")) < len(text):
        with atomic_path(path) as beside:
            beside.write_text(text, encoding="utf-8")
