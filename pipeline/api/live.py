"""/v1/partners/{partner}/sources/{source}/live: events as they pass each stage, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from pipeline.api import tenancy
from pipeline.api.errors import ApiError, problems
from pipeline.query.live import Ended, Live, Watcher

__all__ = ["router"]

router = tenancy.router("sources")

#: A comment now and then: proxies end what says nothing, and a client that has gone is noticed.
_QUIET_SECONDS = 10.0
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events until the client goes: `watching` once all that comes from now on is seen; "
        "then `edge`, `raw`, `accepted`, `rejected` and `counted`, each with a `Sighting` as data; `end` with "
        "`code` and `message` when the server ends it (`slow`, `stopped`, `unavailable`).",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/{source}/live", response_class=StreamingResponse, responses=_STREAM | problems(401, 403, 404, 503))
async def watch(partner: str, source: str, request: Request) -> StreamingResponse:
    """Watch a source like `tail -f`: each event at each stage, with ms, and the reason where it is rejected."""
    state = request.app.state.control.state
    tenancy.found(state, "source", state.sources, partner, source)
    live: Live = request.app.state.live
    stack = AsyncExitStack()
    try:
        watcher = await stack.enter_async_context(live.watch(state.sources[partner, source]))
    except Ended as end:
        raise ApiError(503, end.code, str(end)) from None
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(watcher, stack), media_type="text/event-stream", headers=headers)


async def _events(watcher: Watcher, stack: AsyncExitStack) -> AsyncIterator[str]:
    async with stack:
        source = watcher.source
        yield _event("watching", json.dumps({"partner": source.partner, "source": source.id, "topic": source.topic}))
        try:
            while True:
                sighting = await watcher.next(_QUIET_SECONDS)
                yield ":\n\n" if sighting is None else _event(sighting.stage, sighting.to_json().decode())
        except Ended as end:
            yield _event("end", json.dumps({"code": end.code, "message": str(end)}))


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"
