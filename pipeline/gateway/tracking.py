"""Tracking calls: /v1/track, page, screen, identify, group, alias, batch, import, their short forms and dialects.

One way through for all of them (`Tracking.begin`), whichever server has read the request: it never waits, so the fast
front (`front`) needs no task a request, and the ASGI route just awaits what comes back.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import Refused
from pipeline.bridges.segment import KINDS, Opened, SegmentBridge, open_body
from pipeline.control.log import ControlLog
from pipeline.gateway.admission import Admitted, admit, given_key
from pipeline.gateway.answers import Reply, answer_all, batch_reply, let_read, preflight, reading, refusal
from pipeline.gateway.body import gunzip, read_body
from pipeline.gateway.limits import Limits
from pipeline.gateway.origin import origin_of
from pipeline.gateway.parts import Parts
from pipeline.gateway.paths import CALLS
from pipeline.gateway.publish import Client, Producing, write
from pipeline.models.control import Source
from pipeline.stream.producer import ProduceError

__all__ = ["MAX_BODY_BYTES", "Asked", "Begun", "Tracking", "routes"]

#: Of a batch, unpacked.
MAX_BODY_BYTES = 500 * 1024
#: The browser's anonymous id: the tracker's cookie, and what the tracker takes for one.
_COOKIE, _COOKIE_ID, _YEAR = "hr_aid", re.compile(r"[\w-]{8,64}", re.ASCII), 31_536_000
#: Keys whose admission is remembered until the control log moves.
_REMEMBERED = 10_000


class _Caller(NamedTuple):
    """Who a call is from, while the control log stands at ``offset`` and bodies say ``key`` of their own."""

    offset: int
    key: Any
    given: str
    admitted: Admitted
    client: Client


class Asked:
    """A call's head. ``kind``: a value of `KINDS`; ``headers``: names in lower case; ``ip``: the client's.

    ``caller``: what `Tracking` has made of it, for the next call with the same head.
    """

    __slots__ = ("caller", "headers", "ip", "kind", "query", "secure")

    def __init__(
        self, kind: str, headers: Mapping[str, str], query: Mapping[str, str], ip: str | None, secure: bool
    ) -> None:
        self.kind = kind
        self.headers = headers
        self.query = query
        self.ip = ip
        self.secure = secure
        self.caller: _Caller | None = None


class Begun(NamedTuple):
    """The answer to give when ``done`` is (at once without one); `Tracking.outcome` if ``done`` has an exception."""

    reply: Reply
    done: asyncio.Future[None] | None = None
    source: Source | None = None


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """Every path of `CALLS`, and a 404 that names them for other words under ``/v1/``."""
    tracking = Tracking(parts.control, parts.producer, parts.limits)
    known = [Route(path, tracking.respond, methods=["POST", "OPTIONS"]) for path in CALLS]
    return [*known, Route("/v1/{kind}", tracking.unknown, methods=["POST", "OPTIONS"])]


class Tracking:
    """Judges, records, answers. 200 means that the broker has acknowledged every good event."""

    def __init__(self, control: ControlLog, producer: Producing, limits: Limits) -> None:
        self._control = control
        self._producer = producer
        self._limits = limits
        self._admitted: dict[tuple[str, str | None], Admitted] = {}
        self._as_of = -1

    async def respond(self, request: Request) -> Response:
        """``POST`` of a call, and the browser's OPTIONS before it."""
        if request.method == "OPTIONS":
            return self.preflight(request.headers.get("origin")).response()

        async def handle() -> Response:
            body = await read_body(request, MAX_BODY_BYTES)
            ip = request.client.host if request.client else None
            kind = CALLS[request.scope["path"]]
            asked = Asked(kind, request.headers, request.query_params, ip, request.url.scheme == "https")
            begun = self.begin(asked, body)
            if begun.done is not None:
                try:
                    await begun.done
                except ProduceError as error:
                    return self.outcome(asked, begun, error).response()
            return begun.reply.response()

        # What `begin` answers can be read already; what the body's reading refuses, not yet.
        return let_read(request, await answer_all(handle), None)

    async def unknown(self, request: Request) -> Response:
        """A word that is no call."""
        if request.method == "OPTIONS":
            return self.preflight(request.headers.get("origin")).response()
        no = Refused(404, "not_found", f"no such call: {request.path_params['kind'][:40]!r}; one of {', '.join(KINDS)}")
        return let_read(request, refusal(no).response(), None)

    def preflight(self, origin: str | None) -> Reply:
        """Whether a page of ``origin`` may post."""
        return preflight(origin, self._control.state)

    def begin(self, asked: Asked, body: bytes) -> Begun:
        """Judge a call and hand its events to Kafka. Never raises for what a client may send."""
        source: Source | None = None
        done: asyncio.Future[None] | None = None
        more: list[tuple[str, str]] = []
        try:
            if body[:2] == b"\x1f\x8b":
                body = gunzip(body, MAX_BODY_BYTES)
            received = int(time.time() * 1000)
            opened = open_body(asked.kind, body)
            headers = asked.headers
            caller = asked.caller
            if caller is None or caller.offset != self._control.state.offset or caller.key != opened.write_key:
                caller = self._called(asked, opened.write_key)
            source, bridge, _ = caller.admitted
            assert isinstance(bridge, SegmentBridge)
            parsed = bridge.parse_opened(opened, source, caller.given)
            if parsed.events:
                self._limits.take(source, len(parsed.events), received / 1000)
                done = write(self._producer, source, parsed.events, caller.client, received)
            reply = batch_reply(len(parsed.events), parsed.faults)
            if source.bridge == "js" and headers.get("sec-fetch-site") == "same-origin":
                more = _anonymous_id(asked, opened)
        except (Refused, ProduceError) as error:
            reply = refusal(error)
        origin = asked.headers.get("origin")
        if origin or more:
            reply = reply._replace(headers=[*reply.headers, *reading(origin, source), *more])
        return Begun(reply, done, source)

    def outcome(self, asked: Asked, begun: Begun, error: BaseException) -> Reply:
        """The answer when ``begun.done`` has raised."""
        if not isinstance(error, ProduceError):
            raise error
        reply = refusal(error)
        return reply._replace(headers=[*reply.headers, *reading(asked.headers.get("origin"), begun.source)])

    def _called(self, asked: Asked, key: Any) -> _Caller:
        """Who calls, for a body whose own key is ``key``. Where a secret must be compared, not remembered."""
        given = given_key(asked.headers, asked.query, {"writeKey": key})
        admitted = self._admit(given, origin_of(asked.headers))
        client = Client.read(asked.headers, asked.ip, admitted.source, admitted.key)
        caller = _Caller(self._control.state.offset, key, given, admitted, client)
        asked.caller = caller if given.count(".") == 1 else None
        return caller

    def _admit(self, key: str, origin: str | None) -> Admitted:
        """`admit`, remembered while nothing changes. Keys with a secret are compared every time."""
        state = self._control.state
        if key.count(".") != 1:
            return admit(state, key, origin)
        if self._as_of != state.offset or len(self._admitted) > _REMEMBERED:
            self._admitted.clear()
            self._as_of = state.offset
        found = self._admitted.get((key, origin))
        if found is None:
            found = self._admitted[key, origin] = admit(state, key, origin)
        return found


def _anonymous_id(asked: Asked, opened: Opened) -> list[tuple[str, str]]:
    """Set the page's anonymous id as a cookie from here, since browsers forget script-set ones after a week.

    Only where the page and the gateway are one origin (others never see it), and never over another id: what
    waited in a tracker's queue may be older than the cookie.
    """
    found = opened.last_anonymous_id
    if not isinstance(found, str) or not _COOKIE_ID.fullmatch(found):
        return []
    try:
        kept = SimpleCookie(asked.headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        kept = None
    if kept is not None and kept.value != found:
        return []
    secure = "; Secure" if asked.secure else ""
    return [("set-cookie", f"{_COOKIE}={found}; Max-Age={_YEAR}; Path=/; SameSite=lax{secure}")]
