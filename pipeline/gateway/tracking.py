"""The tracking routes: /v1/track, page, screen, identify, group, alias, batch, import, and their short forms."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import BridgeRequest, Refused, decode_object
from pipeline.bridges.segment import KINDS
from pipeline.control.log import ControlLog
from pipeline.gateway.admission import admit, given_key
from pipeline.gateway.answers import answer_all, batch_answer, let_read, preflight
from pipeline.gateway.body import gunzip, read_body
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import Client, publish
from pipeline.models.control import Source
from pipeline.stream.batch import BatchProducer

__all__ = ["MAX_BODY_BYTES", "PATHS", "Tracking", "routes"]

#: Segment's; Jitsu's from pages and from servers; RudderStack's from a page that closes.
PATHS = ("/v1/{kind}", "/api/s/{kind}", "/api/s/s2s/{kind}", "/beacon/v1/{kind}")
#: Of a batch, unpacked.
MAX_BODY_BYTES = 500 * 1024
#: The browser's anonymous id: the tracker's cookie, and what the tracker takes for one.
_COOKIE, _COOKIE_ID, _YEAR = "hr_aid", re.compile(r"[\w-]{8,64}", re.ASCII), 31_536_000


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/v1/{kind}``: every call of Segment's protocol; and where Jitsu's and RudderStack's clients send the same."""
    respond = Tracking(parts.control, parts.producer).respond
    return [Route(path, respond, methods=["POST", "OPTIONS"]) for path in PATHS]


class Tracking:
    """Judges, records, answers. 200 means that the broker has acknowledged every good event."""

    def __init__(self, control: ControlLog, producer: BatchProducer) -> None:
        self._control = control
        self._producer = producer

    async def respond(self, request: Request) -> Response:
        """``POST /v1/{kind}``, and the browser's OPTIONS before it."""
        if request.method == "OPTIONS":
            return preflight(request, self._control.state)
        return await _Call(request, self._control, self._producer).answer()


class _Call:
    """One request, and the source once it is known: the answer's CORS headers depend on it."""

    def __init__(self, request: Request, control: ControlLog, producer: BatchProducer) -> None:
        self._request = request
        self._control = control
        self._producer = producer
        self._source: Source | None = None

    async def answer(self) -> Response:
        return let_read(self._request, await answer_all(self._handle), self._source)

    async def _handle(self) -> Response:
        request = self._request
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise Refused(404, "not_found", f"no such call: {kind[:40]!r}; one of {', '.join(KINDS)}")
        body = gunzip(await read_body(request, MAX_BODY_BYTES), MAX_BODY_BYTES)
        received = int(time.time() * 1000)
        document = decode_object(body)
        client = Client.of(request)
        key = given_key(request.headers, request.query_params, document)
        source, bridge = admit(self._control.state, key, client.origin)
        self._source = source
        parsed = bridge.parse(BridgeRequest(kind, request.headers, body, document), source, (), received)
        await publish(self._producer, source, parsed.events, client, received)
        response = batch_answer(len(parsed.events), parsed.faults)
        if source.bridge == "js":
            _keep_anonymous_id(request, response, document)
        return response


def _keep_anonymous_id(request: Request, response: Response, document: Mapping[str, Any]) -> None:
    """Set the page's anonymous id as a cookie from here, since browsers forget script-set ones after a week.

    Only where the page and the gateway are one origin (others never see it), and never over another id: what
    waited in a tracker's queue may be older than the cookie.
    """
    items = document.get("batch")
    last = items[-1] if isinstance(items, list) and items else document
    found = last.get("anonymousId") if isinstance(last, dict) else None
    if request.headers.get("sec-fetch-site") != "same-origin" or not isinstance(found, str):
        return
    if _COOKIE_ID.fullmatch(found) and request.cookies.get(_COOKIE, found) == found:
        secure = request.url.scheme == "https"
        response.set_cookie(_COOKIE, found, max_age=_YEAR, path="/", samesite="lax", secure=secure)
