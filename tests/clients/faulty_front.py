"""A front between clients and the gateway: it notes every request, and fails those it is told to fail."""

from __future__ import annotations

import base64
import gzip
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp import web

__all__ = ["LOST", "Fault", "Front", "Hit", "front_to"]

#: Of one connection only, not of the message.
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "upgrade"}


@dataclass(frozen=True)
class Fault:
    """What a POST is answered with in the gateway's place. ``retry_after``: whole seconds."""

    status: int
    retry_after: int | None = None


#: The gateway takes the request, and its answer never comes: the connection is cut.
LOST: Literal["lost"] = "lost"


@dataclass(frozen=True)
class Hit:
    """A request as it came, and the status it was answered with (0: the connection was cut)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def document(self) -> Any:
        """The body's JSON, unpacked where it is gzip."""
        return orjson.loads(gzip.decompress(self.body) if self.body.startswith(b"\x1f\x8b") else self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        document = self.document
        return list(document["batch"]) if "batch" in document else [document]

    @property
    def basic(self) -> str:
        """The Basic credentials, ``user:password``; "" without."""
        scheme, _, coded = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(coded).decode() if scheme == "Basic" else ""


@dataclass
class Front:
    """``url``: where clients go. ``faults`` are given to POSTs in turn, then all passes. ``files``: what it serves
    itself, by path.
    """

    url: str = ""
    hits: list[Hit] = field(default_factory=list)
    faults: deque[Fault | Literal["lost"]] = field(default_factory=deque)
    files: dict[str, Path] = field(default_factory=dict)

    def posts(self, *paths: str) -> list[Hit]:
        return [hit for hit in self.hits if hit.method == "POST" and (not paths or hit.path in paths)]

    @property
    def preflights(self) -> list[Hit]:
        return [hit for hit in self.hits if hit.method == "OPTIONS"]

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@asynccontextmanager
async def front_to(upstream: str, faults: Sequence[Fault | Literal["lost"]] = ()) -> AsyncIterator[Front]:
    """A front on a port of its own, to the gateway at ``upstream``."""
    front = Front(faults=deque(faults))
    async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.path in front.files:
                return web.FileResponse(front.files[request.path], headers={"content-type": "text/javascript"})
            body = await request.read()
            fault = front.faults.popleft() if request.method == "POST" and front.faults else None
            if isinstance(fault, Fault):
                answer: web.Response = _failing(request, fault)
            else:
                answer = await _passed(session, upstream, request, body)
            headers = {name.lower(): value for name, value in request.headers.items()}
            status = 0 if fault == LOST else answer.status
            front.hits.append(Hit(request.method, request.path, dict(request.query), headers, body, status))
            if fault == LOST:
                assert request.transport is not None
                request.transport.abort()
            return answer

        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", handle)
        # Bodies go on as they came, gzip or not.
        runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        front.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield front
        finally:
            await runner.cleanup()


def _failing(request: web.Request, fault: Fault) -> web.Response:
    headers = {
        "access-control-allow-origin": request.headers.get("origin", "*"),
        "access-control-expose-headers": "retry-after",
    }
    if fault.retry_after is not None:
        headers["retry-after"] = str(fault.retry_after)
    body = {"code": "injected", "message": "try again"}
    return web.json_response(body, status=fault.status, headers=headers)


async def _passed(session: aiohttp.ClientSession, upstream: str, request: web.Request, body: bytes) -> web.Response:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
    async with session.request(
        request.method, f"{upstream}{request.raw_path}", data=body or None, headers=headers, allow_redirects=False
    ) as answer:
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
        response = web.Response(body=await answer.read(), status=answer.status)
        response.headers.clear()
        response.headers.extend(kept)
        return response
