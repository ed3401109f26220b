"""What tools are in `headrace bench dispatch`: a process that answers every POST at once, or never.

``python -m pipeline.bench.dispatch_receiver`` prints its port. Paths: ``/hook/<n>`` answers 200; ``/hang`` does not;
``GET /taken`` tells of all since the last time: how many, seconds from the first to the last, and p50 and p99 of the
seconds from the event's ``time`` to here, of ``/hook``.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

import uvloop
from aiohttp import web

__all__ = ["main"]

_TIME = re.compile(rb'"time":(\d+)')
_HANG_SECONDS = 30.0


class Receiver:
    """Notes when each request came, and how old its event was."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float]] = []

    async def hook(self, request: web.Request) -> web.Response:
        """A tool that takes it."""
        body = await request.read()
        now = time.time()
        found = _TIME.search(body)
        self._taken.append((now, now - int(found[1]) / 1000 if found else 0.0))
        return web.Response()

    async def hang(self, request: web.Request) -> web.Response:
        """A tool that says nothing."""
        await request.read()
        await asyncio.sleep(_HANG_SECONDS)
        return web.Response()

    async def taken(self, request: web.Request) -> web.Response:
        """The figures; what they are of is forgotten where ``?forget=1`` says so."""
        taken = self._taken
        if request.query.get("forget"):
            self._taken = []
        ages = sorted(age for _, age in taken)
        span = max(at for at, _ in taken) - min(at for at, _ in taken) if taken else 0.0
        middle, last = (ages[len(ages) // 2], ages[int(0.99 * (len(ages) - 1))]) if ages else (0.0, 0.0)
        return web.json_response({"count": len(taken), "seconds": span, "p50": middle, "p99": last})


async def main() -> None:
    """Serve on a free port of loopback until the standard input ends."""
    receiver = Receiver()
    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/hook/{number}", receiver.hook)
    app.router.add_post("/hang", receiver.hang)
    app.router.add_get("/taken", receiver.taken)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(main())
