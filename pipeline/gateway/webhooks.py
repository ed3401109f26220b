"""The webhook route: /v1/webhooks/<partner>/<code>, for providers that sign what they send."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.control.log import ControlLog
from pipeline.control.secrets import SecretError, Secrets
from pipeline.gateway.admission import admit_webhook
from pipeline.gateway.answers import answer_all, batch_answer
from pipeline.gateway.body import read_body
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import Client, Producing, publish
from pipeline.models.control import Source

__all__ = ["MAX_BODY_BYTES", "Webhooks", "routes"]

#: GitHub's largest payloads are a few megabytes.
MAX_BODY_BYTES = 5 << 20

_log = logging.getLogger(__name__)


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/v1/webhooks/<partner>/<code>``."""
    hooks = Webhooks(parts.control, parts.secrets, parts.producer)
    return [Route("/v1/webhooks/{partner}/{code}", hooks.respond, methods=["POST"])]


class Webhooks:
    """Checks the signature over the bytes as they came, records, answers."""

    def __init__(self, control: ControlLog, secrets: Secrets, producer: Producing) -> None:
        self._control = control
        self._secrets = secrets
        self._producer = producer

    async def respond(self, request: Request) -> Response:
        """``POST /v1/webhooks/{partner}/{code}``."""

        async def handle() -> Response:
            where = request.path_params
            source, bridge = admit_webhook(self._control.state, where["partner"], where["code"])
            secrets = self._signing(source)
            body = await read_body(request, MAX_BODY_BYTES)
            received = int(time.time() * 1000)
            parsed = bridge.parse(BridgeRequest("webhook", request.headers, body), source, secrets, received)
            client = Client(request.client.host if request.client else None, None, None)
            await publish(self._producer, source, parsed.events, client, received)
            return batch_answer(len(parsed.events), parsed.faults)

        return await answer_all(handle)

    def _signing(self, source: Source) -> list[bytes]:
        """The source's secrets, one a line: while one is replaced, the old and the new both count."""
        if source.secret is None:
            return []
        try:
            value = self._secrets.get(source.secret)
        except SecretError as error:
            _log.error("source %s.%s: %s", source.partner, source.id, error)
            raise Refused(503, "no_secret", "the source's secret cannot be read now; set it anew") from None
        return [line.strip().encode() for line in value.splitlines() if line.strip()]
