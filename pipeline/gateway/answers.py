"""Answers: JSON, Retry-After, and the CORS headers that let a page read them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline.bridges.base import Fault, Refused
from pipeline.control.reducer import ControlState
from pipeline.models.control import Source
from pipeline.stream.batch import BufferFull, Unavailable

__all__ = ["answer", "answer_all", "batch_answer", "http_error", "let_read", "preflight", "success"]

#: Seconds after which to come again: the buffer drains fast, a broker comes back slowly.
_RETRY_FULL, _RETRY_AWAY = 1, 5
#: What browsers' clients send: Segment's, Jitsu's (x-…), RudderStack's (sentat, rsa-…).
_HEADERS = (
    "authorization, content-type, x-retry-count, anonymousid, x-write-key, x-ip-policy, x-enable-debug, sentat, "
    "rsa-retry-attempt, rsa-retry-reason, rsa-since-first-attempt, rsa-since-last-attempt"
)

_log = logging.getLogger(__name__)


def answer(status: int, body: object, retry_after: int | None = None) -> Response:
    """``body`` as JSON; ``retry_after``: whole seconds."""
    headers = {"cache-control": "no-store"}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def success() -> Response:
    """All of it is recorded."""
    return answer(200, {"success": True})


def batch_answer(taken: int, faults: Sequence[Fault]) -> Response:
    """A batch of which ``taken`` events were recorded: 200, or 400 when all of them were bad.

    A stock library repeats or drops a batch whole, by the status alone; so one good event makes it 200.
    """
    if not faults:
        return success()
    errors = [asdict(fault) for fault in faults]
    if taken:
        return answer(200, {"success": False, "errors": errors})
    first = faults[0]
    message = f"none of the {len(faults)} events can be taken; the first: {first.message}"
    return answer(400, {"success": False, "code": first.code, "message": message, "errors": errors})


async def answer_all(handle: Callable[[], Awaitable[Response]]) -> Response:
    """What ``handle`` answers, or the refusal or outage that it raises as an answer."""
    try:
        return await handle()
    except Refused as no:
        body = {"code": no.code, "message": no.message} | ({"path": no.path} if no.path else {})
        return answer(no.status, body)
    except BufferFull as error:
        _log.warning("no room: %s", error)
        return answer(503, {"code": "busy", "message": "too much is on its way; try again"}, _RETRY_FULL)
    except Unavailable as error:
        _log.warning("Kafka did not acknowledge: %s", error)
        message = "the event could not be recorded now; send it again with the same messageId"
        return answer(503, {"code": "unavailable", "message": message}, _RETRY_AWAY)
    except ClientDisconnect:
        return answer(400, {"code": "gone", "message": "the client went away"})


async def http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors (no such route, wrong method) in our form."""
    assert isinstance(error, HTTPException)
    hint = "no such address; tracking is POST /v1/track, /v1/batch and so on"
    message = {404: hint, 405: f"{request.method} is not for this address"}.get(error.status_code, error.detail)
    response = answer(error.status_code, {"code": error.detail.lower().replace(" ", "_"), "message": message})
    response.headers.update(error.headers or {})
    return response


def let_read(request: Request, response: Response, source: Source | None) -> Response:
    """Let the page that asked read the answer; with its cookies only where it is of the source's domain.

    Refusals too: a page that cannot read one takes it for a failed connection and tries for ever.
    """
    origin = request.headers.get("origin")
    if origin:
        response.headers["access-control-allow-origin"] = origin
        response.headers["access-control-expose-headers"] = "retry-after"
        response.headers["vary"] = "origin"
        if source is not None and source.domain is not None and source.allows_origin(origin):
            response.headers["access-control-allow-credentials"] = "true"
    return response


def preflight(request: Request, state: ControlState, method: str = "POST") -> Response:
    """A browser asks before it posts. It names no source yet, so any origin may ask; the post is judged."""
    response = Response(status_code=204)
    origin = request.headers.get("origin")
    ours = (s for s in state.sources.values() if s.domain and s.active and not s.removed)
    source = next((s for s in ours if s.allows_origin(origin)), None) if origin else None
    let_read(request, response, source)
    response.headers["access-control-allow-methods"] = method
    response.headers["access-control-allow-headers"] = _HEADERS
    response.headers["access-control-max-age"] = "3600"
    return response
