"""Answers: JSON, Retry-After, and the CORS headers that let a page read them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline.bridges.base import Fault, Refused
from pipeline.control.reducer import ControlState
from pipeline.models.control import Source
from pipeline.stream.producer import BufferFull, ProduceError, RecordRefused, Unavailable

__all__ = [
    "SUCCESS",
    "Reply",
    "answer",
    "answer_all",
    "batch_answer",
    "batch_reply",
    "http_error",
    "let_read",
    "preflight",
    "reading",
    "refusal",
    "reply",
    "success",
]

#: Seconds after which to come again: the buffer drains fast, a broker comes back slowly.
_RETRY_FULL, _RETRY_AWAY = 1, 5
#: What browsers' clients send: Segment's, Jitsu's (x-…), RudderStack's (sentat, rsa-…).
_HEADERS = (
    "authorization, content-type, x-retry-count, anonymousid, x-write-key, x-ip-policy, x-enable-debug, sentat, "
    "rsa-retry-attempt, rsa-retry-reason, rsa-since-first-attempt, rsa-since-last-attempt"
)

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """An answer before any server's own form: status, JSON, and headers beside those that every answer has."""

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()

    def response(self) -> Response:
        """As Starlette has it."""
        made = Response(self.body, self.status, media_type="application/json" if self.body else None)
        if self.body:
            made.headers["cache-control"] = "no-store"
        for name, value in self.headers:
            made.headers[name] = value
        return made


SUCCESS = Reply(200, b'{"success":true}')


def reply(status: int, body: object, retry_after: int | None = None) -> Reply:
    """``body`` as JSON; ``retry_after``: whole seconds."""
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    return Reply(status, orjson.dumps(body), headers)


def answer(status: int, body: object, retry_after: int | None = None) -> Response:
    """``body`` as JSON; ``retry_after``: whole seconds."""
    return reply(status, body, retry_after).response()


def success() -> Response:
    """All of it is recorded."""
    return SUCCESS.response()


def batch_reply(taken: int, faults: Sequence[Fault]) -> Reply:
    """A batch of which ``taken`` events were recorded: 200, or 400 when all of them were bad.

    A stock library repeats or drops a batch whole, by the status alone; so one good event makes it 200.
    """
    if not faults:
        return SUCCESS
    errors = [asdict(fault) for fault in faults]
    if taken:
        return reply(200, {"success": False, "errors": errors})
    first = faults[0]
    message = f"none of the {len(faults)} events can be taken; the first: {first.message}"
    return reply(400, {"success": False, "code": first.code, "message": message, "errors": errors})


def batch_answer(taken: int, faults: Sequence[Fault]) -> Response:
    """`batch_reply` as Starlette has it."""
    return batch_reply(taken, faults).response()


def refusal(error: Exception) -> Reply:
    """A refusal or an outage as an answer. Raises ``error`` itself when it is neither."""
    if isinstance(error, Refused):
        body = {"code": error.code, "message": error.message} | ({"path": error.path} if error.path else {})
        return reply(error.status, body, error.retry_after)
    if isinstance(error, RecordRefused):
        return reply(413, {"code": "too_large", "message": f"Kafka refused the event: {error}"})
    if isinstance(error, BufferFull):
        _log.warning("no room: %s", error)
        return reply(503, {"code": "busy", "message": "too much is on its way; try again"}, _RETRY_FULL)
    if isinstance(error, Unavailable):
        _log.warning("Kafka did not acknowledge: %s", error)
        message = "the event could not be recorded now; send it again with the same messageId"
        return reply(503, {"code": "unavailable", "message": message}, _RETRY_AWAY)
    if isinstance(error, ClientDisconnect):
        return reply(400, {"code": "gone", "message": "the client went away"})
    raise error


async def answer_all(handle: Callable[[], Awaitable[Response]]) -> Response:
    """What ``handle`` answers, or the refusal or outage that it raises as an answer."""
    try:
        return await handle()
    except (Refused, ProduceError, ClientDisconnect) as error:
        return refusal(error).response()


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such route, wrong method) in our form."""
    assert isinstance(error, HTTPException)
    hint = "no such address; tracking is POST /v1/track, /v1/batch and so on"
    message = {404: hint, 405: f"{request.method} is not for this address"}.get(error.status_code, error.detail)
    response = answer(error.status_code, {"code": error.detail.lower().replace(" ", "_"), "message": message})
    response.headers.update(error.headers or {})
    return response


def reading(origin: str | None, source: Source | None) -> list[tuple[str, str]]:
    """Headers that let the page of ``origin`` read an answer; with its cookies only where it is of the source's domain.

    On refusals too: a page that cannot read one takes it for a failed connection and tries for ever.
    """
    if not origin:
        return []
    headers = [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", "retry-after"),
        ("vary", "origin"),
    ]
    if source is not None and source.domain is not None and source.allows_origin(origin):
        headers.append(("access-control-allow-credentials", "true"))
    return headers


def let_read(request: Request, response: Response, source: Source | None) -> Response:
    """`reading` on a response that is there."""
    for name, value in reading(request.headers.get("origin"), source):
        response.headers[name] = value
    return response


def preflight(origin: str | None, state: ControlState, method: str = "POST") -> Reply:
    """A browser asks before it posts. It names no source yet, so any origin may ask; the post is judged."""
    ours = (s for s in state.sources.values() if s.domain and s.active and not s.removed)
    source = next((s for s in ours if s.allows_origin(origin)), None) if origin else None
    return Reply(
        204,
        b"",
        [
            *reading(origin, source),
            ("access-control-allow-methods", method),
            ("access-control-allow-headers", _HEADERS),
            ("access-control-max-age", "3600"),
        ],
    )
