"""Tracked links and pixels: /l/<token> leads on, /o/<token>.gif is a GIF, whatever becomes of the record of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import Answer, BridgeRequest, Parsed, Refused
from pipeline.bridges.link_token import peek
from pipeline.bridges.links import CLICK, METHOD, NEVER_KEPT, OPEN, PIXEL
from pipeline.bridges.registry import bridge
from pipeline.gateway.client import Client
from pipeline.gateway.hits import FATES, Hits
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import records_of
from pipeline.gateway.signing import signing_secrets
from pipeline.models.base import Millis
from pipeline.models.control import Source

__all__ = ["Links", "routes"]

_BAD = "This link is not valid. It may have been cut off: copy all of it, or ask whoever sent it.\n"


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/l/<token>``, ``/o/<token>.gif``, and ``/metrics`` with what became of the hits."""
    links = Links(parts)
    return [
        Route("/l/{token}", links.click, methods=["GET"]),
        Route("/o/{token}.gif", links.open, methods=["GET"]),
        Route("/metrics", links.metrics, methods=["GET"]),
    ]


class Links:
    """The token alone decides where to. A source that is switched off, or Kafka away, costs the record, not the way."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.hits = Hits(parts.producer, parts.settings.data_dir / "spool" / "links")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return  # nothing is served yet; what lies on disk is sent with the next that is put there
        self.hits.resume()

    async def click(self, request: Request) -> Response:
        """``GET /l/{token}``: the redirect; 404 and a sentence for what is not signed."""
        try:
            return await self._hit(request, CLICK)
        except Refused as no:
            text = _BAD if no.status == 404 else f"{no.message}\n"
            return Response(text, no.status, NEVER_KEPT, "text/plain; charset=utf-8")

    async def open(self, request: Request) -> Response:
        """``GET /o/{token}.gif``: always the GIF; a mail shows no broken image."""
        try:
            return await self._hit(request, OPEN)
        except Refused:
            return _response(Answer(PIXEL, "image/gif", headers=NEVER_KEPT))

    async def metrics(self, request: Request) -> Response:
        """What became of the hits, as Prometheus reads it."""
        lines = [
            "# HELP headrace_link_hits_total Clicks and opens by their fate.",
            "# TYPE headrace_link_hits_total counter",
        ]
        lines += [f'headrace_link_hits_total{{fate="{fate}"}} {self.hits.counts[fate]}' for fate in FATES]
        lines += ["# HELP headrace_link_spool_bytes Hits that wait on disk.", "# TYPE headrace_link_spool_bytes gauge"]
        lines += [f"headrace_link_spool_bytes {self.hits.spooled_bytes}", ""]
        return Response("\n".join(lines), media_type="text/plain; version=0.0.4")

    async def _hit(self, request: Request, kind: str) -> Response:
        received = int(time.time() * 1000)
        source, parsed = self._read(request, kind, received)
        if not source.active:
            self.hits.counts["off"] += 1
        else:
            seen = Client.of(request, source)
            # The page that a link stood on is not checked against the source's domain: mail is read anywhere.
            client = Client(seen.ip, seen.ua, None, seen.gpc)
            records = records_of(source, parsed.events, client, received, parsed.flags)
            await self.hits.record(source.topic, records)
        assert parsed.answer is not None
        return _response(parsed.answer)

    def _read(self, request: Request, kind: str, received: Millis) -> tuple[Source, Parsed]:
        """Raises `Refused`: 404 for a token that is none, 410 where its source was removed, and its secret with it."""
        token = request.path_params["token"]
        try:
            told = peek(token)
        except ValueError:
            raise Refused(404, "bad_link", _BAD) from None
        source = self._parts.control.state.sources.get((told.partner, told.source))
        found = bridge(source.bridge, "link") if source is not None else None
        if source is None or found is None:
            raise Refused(404, "bad_link", _BAD)
        if source.removed:
            raise Refused(410, "gone", "This link is no longer in use.")
        asked = BridgeRequest(kind, {**request.headers, METHOD: request.method}, token.encode())
        return source, found.parse(asked, source, signing_secrets(self._parts.secrets, source), received)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)
