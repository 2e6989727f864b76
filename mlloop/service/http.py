"""The HTTP service: /predict and /recommend for every problem that has a champion, /health, /ready, /metrics, /docs, and / to find them.

One process, one event loop. A request is checked by a type made from the release and answered in the loop (a row takes
some 100 microseconds); requests that come together are one question to the model. An answer leaves when its log line is
durable; one thread waits for the disk, and what is said meanwhile is its next write. A task looks at the ledger's head;
when it moved, the new pair is loaded beside and takes over between two requests.
"""

import asyncio
import contextlib
import hmac
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic_core
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mlloop import serving
from mlloop.core.errors import ModelError, UsageError
from mlloop.core.metric_table import THRESHOLDS
from mlloop.core.records import AnswerJson, JsonObject, PredictionRecordJson, Row
from mlloop.service import connections, guide, topic
from mlloop.service.models_in_use import Answering, InProduction
from mlloop.store import prediction_log
from mlloop.store.ledger import Head

MAX_BODY = 1024 * 1024
MAX_ROWS = 1000
INLINE_ROWS = 32
RETRY_S = 5.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")
OPEN = ("/health", "/ready")
JSON = "application/json"


@dataclass(frozen=True)
class Options:
    """How the service runs.

    Attributes
    ----------
    host, port
        Port 0: any that is free.
    token : str or None
        What a caller must present as `Authorization: Bearer TOKEN`.
    max_body : int
        Bytes of a request, at most.
    poll_s : float
        Seconds between two looks at the ledger.
    sync : bool
        Whether a prediction is on disk before it is acknowledged, or with the operating system (see prediction_log.Log).
    request_s : float
        Seconds in which a request must have arrived whole.
    max_requests : int
        Requests answered at the same time, at most; more are refused with 503 and Retry-After.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_body: int = MAX_BODY
    poll_s: float = 0.5
    sync: bool = True
    request_s: float = 15.0
    max_requests: int = 256

    @classmethod
    def stated(cls, durable: str, token_file: Path | None, **more: Any) -> "Options":
        """The options as a person states them: the token in a file or in MLLOOP_TOKEN, `durable` as 'disk' or 'process'.

        Raises
        ------
        UsageError
            `durable` is neither, or another host than loopback has no token.
        """
        if durable not in ("disk", "process"):
            raise UsageError(f"--durable is {durable!r}, expected disk or process", next_step="Example: mlloop serve")
        return cls(token=token_from(file=token_file), sync=durable == "disk", **more)

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.token:
            raise UsageError(
                f"a service on {self.host} can be reached from other machines and needs a token",
                "mlloop serve",
                "Set one: MLLOOP_TOKEN=... mlloop serve --host " + self.host,
            )


class Figures:
    """What /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registered: Any = dict(registry=self.registry)
        self.requests = Counter(
            "mlloop_requests", "Requests by problem and status.", ["problem", "status"], **registered
        )
        self.answers = Counter("mlloop_predictions", "Predictions, a row each.", ["problem", "role"], **registered)
        self.errors = Counter("mlloop_canary_errors", "Rows on which the canary failed.", ["problem"], **registered)
        self.seconds = Histogram(
            "mlloop_request_duration_seconds", "From the request's last byte to the answer, log included.", ["problem"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5), **registered,
        )  # fmt: skip
        self.gone = Counter(
            "mlloop_clients_gone", "Callers who hung up before their answer.", ["problem"], **registered
        )
        self.closed = Counter("mlloop_connections_closed", "Connections closed by the service.", ["why"], **registered)
        self.swaps = Counter("mlloop_model_swaps", "Times another pair took over.", ["problem"], **registered)
        self.info = Gauge(
            "mlloop_served_model_info", "1 for the models that answer now.", ["problem", "role", "model"], **registered
        )


class LogFigures:
    """What /metrics shows of the prediction logs and their topic, which count for themselves."""

    def __init__(self, endpoints: Mapping[str, "Endpoint"], sink: topic.Topic | None = None):
        self.endpoints, self.sink = endpoints, sink

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For a registry of prometheus_client."""
        written = CounterMetricFamily("mlloop_predictions_logged", "Predictions in the log.", labels=["problem"])
        lost = CounterMetricFamily("mlloop_predictions_lost", "Predictions not logged.", labels=["problem"])
        for name, endpoint in self.endpoints.items():
            written.add_metric([name], endpoint.log.written)
            lost.add_metric([name], endpoint.log.lost)
        yield from (written, lost)
        if self.sink is not None:
            sent = "Logged predictions that the broker has."
            yield CounterMetricFamily("mlloop_predictions_sent", sent, self.sink.sent)
            unsent = "Logged predictions that the broker will not get."
            yield CounterMetricFamily("mlloop_predictions_unsent", unsent, self.sink.unsent)


class Endpoint:
    """One problem's endpoint: the models that predict, what a request looks like, where it is logged."""

    def __init__(self, models: Answering, problem: str, figures: Figures, sync: bool, sink: topic.Topic | None = None):
        self.models, self.problem, self.figures, self.sink = models, problem, figures, sink
        self.pair: serving.Pair | None = None
        self.checker: serving.Checker | None = None
        self.fault: str | None = None
        self.log = prediction_log.Log(models.log_folder(problem), sync)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiting: list[tuple[serving.Pair, list[Row], asyncio.Future]] = []
        self.unwritten: list[tuple[list, list[AnswerJson], list[PredictionRecordJson]]] = []
        self.writing = False
        self.writer = ThreadPoolExecutor(1, thread_name_prefix=f"log-{problem}")
        self.seconds = figures.seconds.labels(problem)
        self.answered = {role: figures.answers.labels(problem, role) for role in ("champion", "canary")}
        self.ok = figures.requests.labels(problem, "200")

    def refresh(self) -> Callable[[], None]:
        """Load what the ledger names; returns what puts it in place. Runs in a thread, the call of it in the loop.

        Raises
        ------
        ModelError
            The champion cannot be loaded; whoever answered goes on answering.
        """
        pair = self.models.pair(self.problem, self.pair)
        if pair == self.pair:
            return lambda: None
        checker = None if pair is None else serving.checker(pair.form)
        return lambda: self._take(pair, checker)

    def _take(self, pair: serving.Pair | None, checker: serving.Checker | None) -> None:
        if self.pair is not None:
            self.figures.swaps.labels(self.problem).inc()
        self.pair, self.checker = pair, checker
        for labels in [sample.labels for metric in self.figures.info.collect() for sample in metric.samples]:
            if labels["problem"] == self.problem:
                self.figures.info.remove(labels["problem"], labels["role"], labels["model"])
        for role, release in (("champion", pair and pair.champion), ("canary", pair and pair.canary)):
            if release:
                self.figures.info.labels(self.problem, role, release.model[:12]).set(1)

    def read(self, body: bytes) -> tuple[list[Row], bool]:
        """The checked rows of a request, and whether it was one row."""
        assert self.checker is not None
        if body.lstrip()[:1] != b"[":
            return [self.checker.validate_json(body)], True
        listed = pydantic_core.from_json(body)
        if not 1 <= len(listed) <= MAX_ROWS:
            raise TooMany(f"{len(listed)} rows, expected 1 to {MAX_ROWS}")
        rows, wrong = [], []
        for at, row in enumerate(listed):
            try:
                rows.append(self.checker.validate_json(pydantic_core.to_json(row)))
            except ValidationError as error:
                wrong += [{**mistake, "loc": [at, *mistake["loc"]]} for mistake in serving.request_errors(error)]
        if wrong:
            raise Wrong(wrong)
        return rows, False

    def ask(self, pair: serving.Pair, rows: list[Row]) -> asyncio.Future:
        """The answers to the rows and whether they are in the log, to be awaited.

        Requests that are ready in the same turn of the loop are answered and logged as one: the model is asked once.
        """
        assert self.loop is not None
        answer: asyncio.Future = self.loop.create_future()
        if not self.waiting:
            self.loop.call_soon(self._flush)
        self.waiting.append((pair, rows, answer))
        return answer

    def _flush(self) -> None:
        queued, self.waiting = self.waiting, []
        for pair in {id(pair): pair for pair, _, _ in queued}.values():
            group = [(rows, future) for other, rows, future in queued if other is pair]
            try:
                self.keep(group, *serving.answer(pair, [row for rows, _ in group for row in rows]))
            except Exception:
                self._alone(pair, group)

    def _alone(self, pair: serving.Pair, group: list[tuple[list[Row], asyncio.Future]]) -> None:
        """One request's rows have no answer: the others must not suffer."""
        for rows, future in group:
            try:
                self.keep([(rows, future)], *serving.answer(pair, rows))
            except Exception as error:
                if not future.done():
                    future.set_exception(error)

    def keep(self, group: list, answers: list[AnswerJson], records: list[PredictionRecordJson]) -> None:
        """Log what was said to a group of requests; each has its answers when that is durable.

        While the disk is busy with one write, what is said meanwhile waits and is written as one.
        """
        self.unwritten.append((group, answers, records))
        if not self.log.sync:
            self._written(*self._write(self._taken()))
        elif not self.writing:
            self._write_on()
        failed = sum("error" in record for record in records)
        if failed:
            self.figures.errors.labels(self.problem).inc(failed)
        canary = sum(answer["role"] == "canary" for answer in answers)
        self.answered["champion"].inc(len(answers) - canary)
        if canary:
            self.answered["canary"].inc(canary)

    def _taken(self) -> list:
        batch, self.unwritten = self.unwritten, []
        return batch

    def _write_on(self) -> None:
        batch = self._taken()
        self.writing = bool(batch)
        if batch:
            self.writer.submit(self._write_beside, batch)

    def _write_beside(self, batch: list) -> None:
        """In the writer's thread."""
        done = self._write(batch)
        with contextlib.suppress(RuntimeError):  # the loop is gone
            self.loop.call_soon_threadsafe(self._written, *done)  # type: ignore[union-attr]

    def _write(self, batch: list) -> tuple[list, bool]:
        records = [record for _, _, records in batch for record in records]
        is_durable = self.log.append(records)
        if is_durable and self.sink is not None:
            self.sink.send(self.problem, records)
        return batch, is_durable

    def _written(self, batch: list, durable: bool) -> None:
        for group, answers, _ in batch:
            start = 0
            for rows, future in group:
                if not future.done():
                    future.set_result((answers[start : start + len(rows)], durable))
                start += len(rows)
        if self.log.sync:
            self._write_on()

    def close(self) -> None:
        """Write what waits and leave the log."""
        self.writer.shutdown(wait=True)
        self.log.close()


class TooMany(Exception):
    """A request with no rows, or more than are taken at once."""


class Wrong(Exception):
    """Rows that break the contract; holds what is to be told."""


class Service:
    """The application with its state."""

    def __init__(self, models: Answering, options: Options):
        self.models, self.options, self.figures = models, options, Figures()
        self.sink = topic.of(models.settings) if isinstance(models, InProduction) else None
        self.endpoints = {
            name: Endpoint(models, name, self.figures, options.sync, self.sink) for name in models.problems
        }
        self.figures.registry.register(LogFigures(self.endpoints, self.sink))
        self.head: Head | None = None
        self.fault: str | None = None
        self.tried = 0.0
        self.requests = 0
        self.bounds = connections.Bounds(
            options.request_s, connections.most_connections(), lambda why: self.figures.closed.labels(why).inc()
        )
        self.app = self._app()

    # who answers

    def load(self) -> None:
        """Load every problem's pair before the first request.

        Raises
        ------
        ModelError
            A champion's release is missing or altered.
        """
        self.head = self.models.head()
        for endpoint in self.endpoints.values():
            endpoint.refresh()()
            prediction_log.sweep(endpoint.log.folder)
            endpoint.log.prepare()

    async def _watch(self) -> None:
        """Let another pair take over when the ledger moved; a look that fails is made again, and a good one clears it."""
        while True:
            await asyncio.sleep(self.options.poll_s)
            try:
                for endpoint in self.endpoints.values():
                    await asyncio.to_thread(endpoint.log.prepare)
                if self.sink is not None:
                    self.sink.producer.poll(0)
                head = await asyncio.to_thread(self.models.head)
                if head != self.head:
                    await self._follow(list(self.endpoints.values()))
                    self.head = head
                elif asyncio.get_running_loop().time() - self.tried > RETRY_S:
                    endpoints = self.endpoints.values()
                    if failing := [
                        endpoint for endpoint in endpoints if endpoint.fault or (endpoint.pair and endpoint.pair.fault)
                    ]:
                        await self._follow(failing)
                self.fault = None
            except Exception as error:
                self.fault = f"{type(error).__name__}: {error}"

    async def _follow(self, endpoints: list[Endpoint]) -> None:
        self.tried = asyncio.get_running_loop().time()
        for endpoint in endpoints:
            try:
                put = await asyncio.to_thread(endpoint.refresh)
                put()
                endpoint.fault = None
                self.app.openapi_schema = None
            except ModelError as error:
                endpoint.fault = str(error)

    # the application

    def _app(self) -> FastAPI:
        app = guide.application(
            title="mlloop", version="1", lifespan=self._lifespan,
            description="Answers with the models that are in production.",
        )  # fmt: skip
        app.add_api_route(
            "/health", self._health, methods=["GET"], tags=["service"], summary="Whether the process lives."
        )
        app.add_api_route(
            "/ready",
            self._ready,
            methods=["GET"],
            tags=["service"],
            summary="Whether it can answer.",
            response_model=None,
        )
        app.add_api_route(
            "/metrics",
            self._metrics,
            methods=["GET"],
            tags=["service"],
            summary="Figures for Prometheus.",
            response_class=Response,
        )
        self._kinds, asks = self._kinds_of(), {}
        for name, endpoint in self.endpoints.items():
            verb = "recommend" if self._kinds[name] == "recommendation" else "predict"
            alone = [n for n in self.endpoints if (self._kinds[n] == "recommendation") == (verb == "recommend")] == [
                name
            ]
            for path in ([f"/{verb}"] if alone else []) + [f"/{name}/{verb}"]:
                asks[path] = self._route(app, path, endpoint, verb)
        app.add_route("/", lambda request: guide.directions(request, asks), methods=["GET"])
        app.add_middleware(Guard, token=self.options.token, asks=asks)
        app.openapi = self._openapi  # type: ignore[method-assign]
        return app

    def _kinds_of(self) -> dict[str, str]:
        pairs = {name: endpoint.pair for name, endpoint in self.endpoints.items()}
        return {name: pair.champion.kind if pair else self.models.kind(name) for name, pair in pairs.items()}

    def _route(
        self, app: FastAPI, path: str, endpoint: Endpoint, verb: str
    ) -> Callable[[Request], Awaitable[Response]]:
        """Describe a path to the application; returns what answers it."""

        async def ask(request: Request) -> Response:
            return await self._ask(endpoint, request)

        summary = {"recommend": "The best items for a user.", "predict": "Score and prediction of a row."}[verb]
        row, answer = f"{_title(endpoint.problem)}Row", f"{_title(endpoint.problem)}Answer"
        refused = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Refused"}}}}
        responses: dict[int | str, JsonObject] = {
            200: {"description": summary, "content": {JSON: {"schema": _one_or_many(answer)}}},
            **{code: {"description": text, **refused} for code, text in REFUSALS.items()},
        }
        if not self.options.token:
            responses.pop(401)
        app.router.routes.append(
            _Lean(
                path,
                ask,
                methods=["POST"],
                tags=[endpoint.problem],
                summary=summary,
                name=f"{endpoint.problem} {verb} {path}",
                operation_id=path.strip("/").replace("/", "_"),
                responses=responses,
                openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": _one_or_many(row)}}}},
            )
        )
        return ask

    def _openapi(self) -> JsonObject:
        if self.app.openapi_schema is None:
            schema = get_openapi(
                title=self.app.title, version=self.app.version, description=self.app.description, routes=self.app.routes
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, endpoint in self.endpoints.items():
                row = endpoint.checker.json_schema() if endpoint.checker else {"type": "object"}
                schemas[f"{_title(name)}Row"] = {**row, "title": f"{_title(name)}Row"}
                schemas[f"{_title(name)}Answer"] = ANSWERS[self._kinds[name] == "recommendation"]
            schemas["Refused"] = REFUSED
            for path in schema["paths"].values():
                for operation in path.values():
                    if "200" in operation["responses"] and "requestBody" in operation:
                        operation["responses"]["200"]["content"] = {
                            JSON: operation["responses"]["200"]["content"][JSON]
                        }
            if self.options.token:
                schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                schema["security"] = [{"token": []}]
            self.app.openapi_schema = schema
        return self.app.openapi_schema

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        for endpoint in self.endpoints.values():
            endpoint.loop = loop
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            for endpoint in self.endpoints.values():
                await asyncio.to_thread(endpoint.close)
            if self.sink is not None:
                await asyncio.to_thread(self.sink.close)

    # answers

    async def _ask(self, endpoint: Endpoint, request: Request) -> Response:
        began = asyncio.get_running_loop().time()
        try:
            body = await _body(request, self.options.max_body)
            if self.requests >= self.options.max_requests:
                response = refuse(503, [], f"{self.requests} requests are being answered", "busy")
                response.headers["retry-after"] = "1"
            else:
                self.requests += 1
                try:
                    response = await self._answer(endpoint, body)
                finally:
                    self.requests -= 1
        except ClientDisconnect:
            self.figures.gone.labels(endpoint.problem).inc()
            return Response(status_code=499)  # nobody reads it
        except TooLarge:
            response = refuse(413, [], f"the request is larger than {self.options.max_body:,} bytes", "too_large")
        if response.status_code == 200:
            endpoint.ok.inc()
        else:
            self.figures.requests.labels(endpoint.problem, str(response.status_code)).inc()
        endpoint.seconds.observe(asyncio.get_running_loop().time() - began)
        return response

    async def _answer(self, endpoint: Endpoint, body: bytes) -> Response:
        pair = endpoint.pair
        if pair is None:
            return refuse(503, [], f"no model is in production for {endpoint.problem}", "no_champion")
        try:
            rows, is_one = endpoint.read(body)
            if len(rows) <= INLINE_ROWS:
                prediction = endpoint.ask(pair, rows)
            else:
                prediction = asyncio.get_running_loop().create_future()
                endpoint.keep([(rows, prediction)], *await asyncio.to_thread(serving.answer, pair, rows))
            answers, durable = await prediction
        except ValidationError as error:
            return Response(pydantic_core.to_json({"detail": serving.request_errors(error)}), 422, media_type=JSON)
        except Wrong as error:
            return Response(pydantic_core.to_json({"detail": error.args[0]}), 422, media_type=JSON)
        except (TooMany, ModelError) as error:
            return refuse(422, [], error.what if isinstance(error, ModelError) else str(error), "no_answer")
        except ValueError:
            return refuse(422, [], "the body is not JSON", "json_invalid")
        headers = None if durable else {"x-prediction-logged": "false"}
        return Response(pydantic_core.to_json(answers[0] if is_one else answers), 200, headers, JSON)

    async def _health(self) -> dict[str, str]:
        return {"status": "ok"}

    async def _ready(self, request: Request) -> Response:
        problems = {
            name: {
                "champion": endpoint.pair.champion.model[:12] if endpoint.pair else None,
                "canary": endpoint.pair.canary.model[:12] if endpoint.pair and endpoint.pair.canary else None,
                "fault": endpoint.fault
                or (endpoint.pair.fault if endpoint.pair else None)
                or endpoint.log.fault
                or self.fault,
                "predictions_lost": endpoint.log.lost,
            }
            for name, endpoint in self.endpoints.items()
        }
        ready = bool(problems) and all(problem["champion"] for problem in problems.values())
        # models, paths and addresses are for those who may ask; whoever has no token learns only what a balancer must know
        state = (
            {"ready": ready, "problems": problems} if has_token(request.scope, self.options.token) else {"ready": ready}
        )
        content = pydantic_core.to_json(state)
        return Response(content, 200 if ready else 503, media_type=JSON)

    async def _metrics(self) -> Response:
        return Response(generate_latest(self.figures.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Lean(APIRoute):
    """A route whose handler checks its body itself; what FastAPI would do for it takes as long as the model."""

    def get_route_handler(self):
        return self.endpoint


class Guard:
    """Stands before the application: lets nobody past without the token, except to ask whether the service lives.

    Questions go straight to their endpoint: what the framework does on the way takes as long as the answer.
    """

    def __init__(self, app: Any, token: str | None, asks: dict[str, Callable[[Request], Awaitable[Response]]]):
        self.app, self.asks, self.token = app, asks, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] not in OPEN and not has_token(scope, self.token):
            response = refuse(401, [], "a token is needed", "no_token")
            response.headers["www-authenticate"] = "Bearer"
            return await response(scope, receive, send)
        ask = self.asks.get(scope["path"]) if scope["method"] == "POST" else None
        if ask is None:
            return await self.app(scope, receive, send)
        response = await ask(Request(scope, receive))
        await response(scope, receive, send)


def has_token(scope: Any, token: str | None) -> bool:
    """Whether a request presents the token; without a token everybody who reaches the service may ask."""
    if not token:
        return True
    stated = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return hmac.compare_digest(stated, f"Bearer {token}".encode())


class TooLarge(Exception):
    """A body beyond the limit."""


async def _body(request: Request, most: int) -> bytes:
    parts, size = [], 0
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        raise TooLarge
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


def refuse(status: int, loc: list[Any], message: str, kind: str) -> Response:
    """An answer that says what is wrong, in the form that FastAPI gives it."""
    return Response(
        pydantic_core.to_json({"detail": [{"loc": loc, "msg": message, "type": kind}]}), status, media_type=JSON
    )


def _one_or_many(name: str) -> JsonObject:
    """The schema of one such thing, or a list of them."""
    single = {"$ref": f"#/components/schemas/{name}"}
    return {"oneOf": [single, {"type": "array", "minItems": 1, "maxItems": MAX_ROWS, "items": single}]}


def _title(problem: str) -> str:
    return "".join(part.title() for part in problem.replace("-", "_").split("_"))


REFUSALS = {
    401: "No token, or not the right one.",
    413: "The request is too large.",
    422: "A row breaks the contract; each entry names the field.",
    503: "No model is in production, or too many requests are being answered: try again after the seconds in Retry-After.",
}
REFUSED = {
    "type": "object", "title": "Refused", "required": ["detail"],
    "properties": {"detail": {"type": "array", "items": {
        "type": "object", "required": ["loc", "msg", "type"],
        "properties": {"loc": {"type": "array", "items": {}}, "msg": {"type": "string"}, "type": {"type": "string"}}}}},
}  # fmt: skip
_SAID = {
    "prediction_id": {"type": "string", "description": "name of this prediction; labels can be joined by it"},
    "model": {"type": "string", "description": "who answered: the beginning of the model's digest"},
    "role": {"enum": ["champion", "canary"]},
}
ANSWERS = {
    True: {"type": "object", "required": ["prediction_id", "items", "model", "role"],
           "properties": {**_SAID, "items": {"type": "array", "items": {"type": "string"}}}},
    False: {"type": "object", "required": ["prediction_id", "score", "prediction", "model", "role"],
            "properties": {
                **_SAID, "score": {"type": "number"}, "prediction": {},
                "threshold": {"type": "number", "description":
                    "of two classes: the score from which the positive one is predicted (-1: always, 2: never)"},
                "threshold_from": {"enum": ["money", "metric", "default"], "description": "; ".join(
                    f"{name}: {words}" for name, words in THRESHOLDS.items())}}},
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- running


def start(models: Answering, options: Options) -> tuple["Service", uvicorn.Server]:
    """A loaded service and the server that will run it.

    Raises
    ------
    ModelError
        A champion's release is missing or altered.
    """
    service = Service(models, options)
    service.load()
    config = uvicorn.Config(
        service.app, options.host, options.port, log_level="warning", access_log=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=20, server_header=False, date_header=False,
        http=connections.bounded(AutoHTTPProtocol, service.bounds), backlog=connections.ACCEPTED,
    )  # fmt: skip
    connections.fold_log_lines()
    return service, uvicorn.Server(config)


def serve(models: Answering, options: Options, ready: Callable[[str], None] = print) -> None:
    """Run the service until it is told to stop (SIGTERM, SIGINT); requests under way are answered first."""
    sockets = connections.listen(options.host, options.port)
    _, server = start(models, options)
    asyncio.run(_run(server, sockets, options, ready))


async def _run(
    server: uvicorn.Server, sockets: list[socket.socket], options: Options, ready: Callable[[str], None]
) -> None:
    server.capture_signals = contextlib.nullcontext  # type: ignore  # it would let the signal kill it after all
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    running = asyncio.create_task(server.serve(sockets))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if server.started:
        for socket_ in sockets:
            socket_.listen(connections.WAITING)
        ready(f"http://{options.host}:{port_of(server)}")
    await running


def port_of(server: uvicorn.Server) -> int:
    """The port on which the server listens."""
    return server.servers[0].sockets[0].getsockname()[1]


def token_from(environment: dict[str, str] | None = None, file: Path | None = None) -> str | None:
    """The token of a file, else of MLLOOP_TOKEN."""
    if file is not None:
        return file.read_text(encoding="utf-8").strip() or None
    return (environment or dict(os.environ)).get("MLLOOP_TOKEN") or None
