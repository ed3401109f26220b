"""The admin API as an ASGI application, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pipeline.api import errors, event_types, integrations, keys, links, partners, rules, segments, sources, trials
from pipeline.api.access import check_binding
from pipeline.api.desk import EnsureTopics
from pipeline.api.limits import BodyLimit
from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.models.catalogue import Catalogue
from pipeline.query.live import Live
from pipeline.settings import Settings

__all__ = ["create_app", "openapi"]

_DESCRIPTION = """
Partners, their event sources, segments, integrations and rules.

* A change carries the version it was made on in `If-Match`; the `ETag` of an answer is that version. Without it: 428;
  when somebody was faster: 409 `stale`.
* Ids are for ever and never used twice. A source's `code` may change; it is unique in its partner.
* A change has been accepted, by every process's own judgement, when it is answered; it acts everywhere within 2 s.
* `Idempotency-Key` makes a repeat harmless: it gets the first answer.
* Every error has one shape: `{"code", "message", "path"?}`.
"""

health = APIRouter(tags=["health"])


@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@health.get("/readyz", responses={503: {"description": "Following Kafka has stopped; the process must be restarted."}})
async def readyz(request: Request) -> JSONResponse:
    """The process has read the control log and keeps up with it."""
    state = request.app.state
    failures = [state.control.failure, state.secrets.failure, *getattr(state.query, "failures", ())]
    if any(failure.done() for failure in failures):
        return JSONResponse({"status": "stopped"}, 503)
    return JSONResponse({"status": "ready", "offset": state.control.state.offset, "lag": state.control.lag})


def create_app(
    control: ControlLog,
    secrets: Secrets,
    settings: Settings,
    *,
    ensure_topics: EnsureTopics | None = None,
    query: Any = None,
    live: Live | None = None,
    catalogue: Catalogue | None = None,
    tools: Mapping[str, type[BaseModel]] | None = None,
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The application over a started control log and secrets, which the caller stops.

    ``ensure_topics`` makes the topics of a new source or integration before its creation is answered.
    ``catalogue``: the shipped event types; conditions of segments are checked against them and the partner's own.
    ``tools``: kind of integration -> model of its settings; None leaves settings unchecked. ``query`` is there for
    ``routers``, as ``request.app.state.query``; its ``failures``, futures, make the process unready.
    ``live``: what watches sources.
    Raises ValueError when the API would be open to the network without a token.
    """
    check_binding(settings)
    app = _bare(routers)
    app.state.control = control
    app.state.secrets = secrets
    app.state.settings = settings
    app.state.ensure_topics = ensure_topics
    app.state.query = query
    app.state.live = live
    app.state.catalogue = catalogue or Catalogue(events={})
    app.state.tools = tools
    return app


def openapi(routers: Sequence[APIRouter] = ()) -> dict[str, Any]:
    """The OpenAPI 3.1 document; needs no Kafka."""
    return _bare(routers).openapi()


def _bare(routers: Sequence[APIRouter]) -> FastAPI:
    app = FastAPI(title="Headrace", version="1", description=_DESCRIPTION)
    app.add_middleware(BodyLimit)
    errors.install(app)
    for room in (partners, sources, keys, trials, links, event_types, segments, integrations, rules):
        app.include_router(room.router)
    for router in (sources.bridges, health, *routers):
        app.include_router(router)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _without_422(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    openapi_version=app.openapi_version,
                    description=app.description,
                    routes=app.routes,
                )
            )
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """The framework documents its own shape of a validation error; ours is a 400."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
