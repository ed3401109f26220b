"""The webhook route: /v1/webhooks/<partner>/<code>, for providers that sign what they send."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import BridgeRequest
from pipeline.gateway.admission import admit_webhook
from pipeline.gateway.answers import answer_all, batch_answer
from pipeline.gateway.body import read_body
from pipeline.gateway.client import Client, public_url
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import publish
from pipeline.gateway.signing import signing_secrets

__all__ = ["MAX_BODY_BYTES", "Webhooks", "routes"]

#: GitHub's largest payloads are a few megabytes.
MAX_BODY_BYTES = 5 << 20


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/v1/webhooks/<partner>/<code>``."""
    return [Route("/v1/webhooks/{partner}/{code}", Webhooks(parts).respond, methods=["POST"])]


class Webhooks:
    """Checks the signature over the bytes as they came, records, answers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def respond(self, request: Request) -> Response:
        """``POST /v1/webhooks/{partner}/{code}``."""

        async def handle() -> Response:
            where = request.path_params
            source, bridge = admit_webhook(self._parts.control.state, where["partner"], where["code"])
            secrets = signing_secrets(self._parts.secrets, source)
            body = await read_body(request, MAX_BODY_BYTES)
            received = int(time.time() * 1000)
            asked = BridgeRequest("webhook", request.headers, body, url=public_url(request, self._parts.settings))
            parsed = bridge.parse(asked, source, secrets, received)
            client = Client(request.client.host if request.client else None, None, None)
            self._parts.limits.take(source, len(parsed.events), received / 1000)
            await publish(self._parts.producer, source, parsed.events, client, received)
            special = parsed.answer
            if special is None or parsed.faults:
                return batch_answer(len(parsed.events), parsed.faults)
            return Response(special.body, special.status, dict(special.headers), special.media_type)

        return await answer_all(handle)
