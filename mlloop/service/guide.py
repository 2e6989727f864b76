"""What the service shows to a person: where to go, and its documentation.

Every asset comes from an installed package, none from the network.
"""

from collections.abc import Iterable
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from markupsafe import Markup

from mlloop.core.records import Parameters

ASSETS = "/docs-assets"
PLACES = {
    "docs": "what can be asked and answered, with the fields of each model; requests can be tried there",
    "openapi.json": "the same for programs (OpenAPI)",
    "ready": "which models are in production, and whether they can answer",
    "health": "whether the process lives",
    "metrics": "figures for Prometheus",
}


def application(**terms: Any) -> FastAPI:
    """The application, with /docs that opens without a network; `terms` as FastAPI takes them."""
    options: Parameters = {"validatorUrl": None}  # else a request's address goes to a validator elsewhere
    return FastAPIOffline(docs_url="/docs", redoc_url=None, static_url=ASSETS, swagger_ui_parameters=options, **terms)


def directions(request: Request, paths: Iterable[str]) -> Response:
    """Where to go from /: a page for a browser, JSON for a program; links are relative and hold behind a proxy."""
    if "text/html" not in request.headers.get("accept", ""):
        content = {"service": "mlloop", "ask": [f"POST {path}" for path in paths], **{p: f"/{p}" for p in PLACES}}
        return Response(pydantic_core.to_json(content), media_type="application/json")
    lines = [Markup("<li><a href='{}'>/{}</a>: {}</li>").format(path, path, words) for path, words in PLACES.items()]
    endpoints = [Markup("<li><code>POST {}</code></li>").format(path) for path in paths]
    page = PAGE.format(places=Markup("\n").join(lines), paths=Markup("\n").join(endpoints) or Markup("<li>none</li>"))
    return Response(page, media_type="text/html")


PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>mlloop: predictions</title><meta name="color-scheme" content="light dark">
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}</style></head>
<body><h1>mlloop</h1><p>This service predicts with the models that are in production. Requests go to:</p>
<ul>
{paths}
</ul>
<p>And to read:</p>
<ul>
{places}
</ul></body></html>
""")
