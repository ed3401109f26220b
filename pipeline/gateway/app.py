"""The gateway's routes. Thin: a request is admitted, parsed by its source's bridge, and published."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.control.log import ControlLog
from pipeline.control.secrets import Secrets
from pipeline.gateway.answers import answer, http_error
from pipeline.gateway.scripts import SCRIPTS, Script
from pipeline.gateway.tracking import Tracking
from pipeline.gateway.webhooks import Webhooks
from pipeline.stream.batch import BatchProducer

__all__ = ["create_app"]


def create_app(control: ControlLog, secrets: Secrets, producer: BatchProducer) -> Starlette:
    """The ASGI application over started parts; it starts and stops none of them."""

    async def alive(request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def ready(request: Request) -> Response:
        if await producer.answers():
            return answer(200, {"status": "ready"})
        return answer(503, {"status": "kafka does not answer"}, retry_after=1)

    return Starlette(
        routes=[
            Route("/v1/webhooks/{partner}/{code}", Webhooks(control, secrets, producer).respond, methods=["POST"]),
            Route("/v1/{kind}", Tracking(control, producer).respond, methods=["POST", "OPTIONS"]),
            *(Route(f"/{name}", Script(name).respond, methods=["GET"]) for name in SCRIPTS),
            Route("/healthz", alive, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
        ],
        exception_handlers={HTTPException: http_error},
    )
