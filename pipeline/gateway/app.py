"""The gateway's routes. Thin: a request is admitted, parsed by its source's bridge, and published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway import health, links, loaders, scripts, servers, tracking, uploads, webhooks
from pipeline.gateway.answers import http_error
from pipeline.gateway.limits import Limits
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import Producing
from pipeline.gateway.upload_log import UploadLog
from pipeline.settings import Settings

__all__ = ["MODULES", "create_app"]

#: Each module's ``routes(parts)``; the first that matches answers, so the ones with a longer path stand first.
MODULES: tuple[Callable[[Parts], Sequence[BaseRoute]], ...] = (
    webhooks.routes,
    links.routes,
    loaders.routes,
    servers.routes,
    uploads.routes,
    tracking.routes,
    scripts.routes,
    health.routes,
)


def create_app(
    control: ControlLog,
    secrets: Secrets,
    producer: Producing,
    settings: Settings | None = None,
    limits: Limits | None = None,
    upload_log: UploadLog | None = None,
) -> Starlette:
    """The ASGI application over started parts; it starts and stops none of them."""
    parts = Parts(control, secrets, producer, settings or Settings(), limits or Limits("alone"), upload_log)
    return Starlette(
        routes=[route for routes in MODULES for route in routes(parts)],
        exception_handlers={HTTPException: http_error},
    )
