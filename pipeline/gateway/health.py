"""Whether the process lives (``/healthz``) and whether Kafka answers it (``/readyz``)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.gateway.answers import answer
from pipeline.gateway.parts import Parts

__all__ = ["routes"]


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``GET /healthz`` and ``GET /readyz``."""

    async def alive(request: Request) -> Response:
        return answer(200, {"status": "ok"})

    async def ready(request: Request) -> Response:
        if await parts.producer.answers():
            return answer(200, {"status": "ready"})
        return answer(503, {"status": "kafka does not answer"}, retry_after=1)

    return [Route("/healthz", alive, methods=["GET"]), Route("/readyz", ready, methods=["GET"])]
