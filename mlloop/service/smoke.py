"""Asks the real service once: it is started, asked over HTTP for a real row of each problem, and stopped."""

import asyncio
from dataclasses import replace
from typing import Any, TypedDict

from mlloop import products
from mlloop.core import storage
from mlloop.core.records import Row
from mlloop.core.settings import Settings
from mlloop.service import http
from mlloop.service.models_in_use import InProduction


class SmokeAnswer(TypedDict):
    """A real request to a problem's endpoint, and what came back."""

    problem: str
    path: str
    asked: Row
    status: int
    answer: Any


def ask_once(settings: Settings, problems: list[str] | None, options: http.Options) -> list[SmokeAnswer]:
    """The answers to one real request for each problem in production, over HTTP on a free port of loopback.

    Returns
    -------
    list of dict
        problem, asked, status and answer.
    """
    running, server = http.start(InProduction(settings, problems), replace(options, host="127.0.0.1", port=0))
    requests = {name: sample_request(settings, name, endpoint) for name, endpoint in running.endpoints.items()}
    return asyncio.run(_ask(server, requests, options.token))


def sample_request(settings: Settings, problem: str, endpoint: http.Endpoint) -> tuple[str, Row]:
    """The path to ask, and a real row: the first held out, or the first user."""
    from mlloop.release import releases
    from mlloop.store.lake import Lake

    assert endpoint.pair is not None
    product = settings.state / "products" / problem / "features.json"
    tables = products.load(product, products.Features).tables
    if endpoint.pair.champion.kind == "recommendation":
        users = Lake(settings).read(tables["events"]).select("user").distinct()
        user = users.filter(users.user.notnull()).order_by("user").limit(1).to_pandas()["user"].iloc[0]
        return f"/{problem}/recommend", {"user": str(user)}
    held = Lake(settings).read(tables["holdout"])
    fields = [
        *(field for field in endpoint.pair.form.fields if not field.derived),
        *([releases.Field(endpoint.pair.form.entity, "text")] if endpoint.pair.form.entity else []),
    ]
    row = releases.rows_of(held.order_by(*held.columns).limit(1).to_pandas(), fields)[0]
    return f"/{problem}/predict", storage.plain(row)


async def _ask(server: Any, requests: dict[str, tuple[str, Row]], token: str | None) -> list[SmokeAnswer]:
    import httpx

    running = asyncio.create_task(server.serve())
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    responses: list[SmokeAnswer] = []
    address = f"http://127.0.0.1:{http.port_of(server)}"
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30, headers=headers) as client:
        for problem, (path, row) in requests.items():
            answer = await client.post(path, json=row)
            responses.append(
                {"problem": problem, "path": path, "asked": row, "status": answer.status_code, "answer": answer.json()}
            )
    server.should_exit = True
    await running
    return responses
