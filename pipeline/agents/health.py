"""The worker's door for those who watch it: /livez, /readyz."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
from aiohttp import web

from pipeline.stream.lanes import LaneApp

__all__ = ["health"]


@asynccontextmanager
async def health(roles: Sequence[LaneApp], host: str, port: int | None) -> AsyncIterator[int | None]:
    """Serve while inside; the port (a free one for 0), or None where none is wanted. Raises OSError when it is taken.

    ``/livez``: 200 as long as the loop turns. ``/readyz``: 200 when the lanes of every role are restored and move,
    else 503; either way JSON ``{"ready", "reasons", "roles"}``, with each lane's state, lag and frontier.
    """
    if port is None:
        yield None
        return

    async def live(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reasons = [reason for role in roles if (reason := role.unready()) is not None]
        body = {"ready": not reasons, "reasons": reasons, "roles": {role.config.role: role.status() for role in roles}}
        return web.Response(status=503 if reasons else 200, body=orjson.dumps(body), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/livez", live), web.get("/readyz", ready)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
