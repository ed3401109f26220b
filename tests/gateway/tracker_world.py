"""A site with the tracker, and a server that records what a gateway would receive."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eventually import eventually
from playwright.async_api import Page

import pipeline.gateway

__all__ = [
    "KEY",
    "SNIPPET",
    "STATIC",
    "TRACKER",
    "Answer",
    "World",
    "chromium_test",
    "name_of",
    "serving",
    "started",
    "warnings_of",
]

ROOM = Path(pipeline.gateway.__file__).parent
STATIC = ROOM / "static"
TRACKER = ROOM / "tracker"
KEY = "acme.shop-1"
#: As the tracker's README gives it.
SNIPPET = (
    "<script>window.headrace = window.headrace || new Proxy([], "
    "{ get: (calls, name) => name in calls ? calls[name] : (...args) => calls.push([name, ...args]) })</script>"
)

#: The marks of a class of tests in Chromium.
chromium_test = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Answer:
    """What the gateway says: status, headers and the message of its JSON body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""


@dataclass
class Hit:
    """A request as it came: seconds of the monotonic clock, and the answer it got."""

    at: float
    raw: bytes
    headers: dict[str, str]
    body: dict[str, Any]
    status: int

    @property
    def events(self) -> list[dict[str, Any]]:
        return self.body["batch"]


class World:
    """A site and, on another origin, a gateway. ``answers`` are given in turn; 200 when there are none."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        #: Modules that the site serves, by path.
        self.files: dict[str, str] = {}
        #: Addresses of the site's pages as they were asked for, without scheme.
        self.opened: list[str] = []
        self.hits: list[Hit] = []
        self.methods: list[str] = []
        self.answers: deque[Answer] = deque()
        self.default = Answer()
        self.script = asyncio.Event()
        self.script.set()
        self.site = self.gateway = ""

    def tag(self, attributes: str = "", build: str = "tracker.min.js") -> str:
        return f'<script async src="{self.gateway}/{build}" data-key="{KEY}" {attributes}></script>'

    def add(self, path: str, tag: str | None = None, before: str = SNIPPET, after: str = "") -> str:
        """Adds a page of the site; returns its address."""
        tag = self.tag() if tag is None else tag
        self.pages[path] = f"<!doctype html><title>Page {path}</title>{before}{tag}{after}<p>Jackets</p>"
        return self.site + path

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The events of all requests answered with 200; a repeat of a message id counts once, as it does there."""
        events = [event for hit in self.hits if hit.status == 200 for event in hit.events]
        return list({event["messageId"]: event for event in reversed(events)}.values())[::-1]

    @property
    def doubled(self) -> int:
        """How many of the accepted events came more than once."""
        return sum(len(hit.events) for hit in self.hits if hit.status == 200) - len(self.accepted)

    @property
    def names(self) -> list[str]:
        return [name_of(event) for event in self.accepted]

    async def until(self, *names: str) -> list[dict[str, Any]]:
        """Waits until exactly these events, in any order, are accepted; returns them in order of arrival."""
        await eventually(lambda: sorted(self.names) == sorted(names), 60, what=f"{names}, got {self.names}")
        return self.accepted

    async def serve_page(self, request: web.Request) -> web.Response:
        if request.path in self.files:
            return web.Response(text=self.files[request.path], content_type="text/javascript")
        if request.path not in self.pages:
            raise web.HTTPNotFound
        self.opened.append(request.host + request.path_qs)
        return web.Response(text=self.pages[request.path], content_type="text/html")

    async def serve_script(self, request: web.Request) -> web.Response:
        await self.script.wait()
        source = (STATIC / request.path.lstrip("/")).read_text()
        return web.Response(text=source, content_type="application/javascript")

    async def take(self, request: web.Request) -> web.Response:
        self.methods.append(request.method)
        raw = await request.read()
        answer = self.answers.popleft() if self.answers else self.default
        self.hits.append(Hit(time.monotonic(), raw, dict(request.headers), json.loads(raw), answer.status))
        said: dict[str, Any] = {"success": True}
        if answer.status != 200:
            said = {"code": "x", "message": answer.message}
        elif answer.message:
            said = {"success": False, "errors": [{"code": "x", "message": answer.message}]}
        headers = {
            "Access-Control-Allow-Origin": request.headers.get("Origin", "null"),
            "Access-Control-Expose-Headers": "Retry-After",
            **answer.headers,
        }
        return web.json_response(said, status=answer.status, headers=headers)


def name_of(event: dict[str, Any]) -> str:
    return event.get("event") or event["type"]


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def started(world: World, page: Page, path: str = "/") -> None:
    """Opens a page of the site that does nothing by itself, with the tracker loaded."""
    await page.goto(world.add(path, world.tag('data-auto="false"')))
    await page.wait_for_function("!Array.isArray(window.headrace)")


def warnings_of(page: Page) -> list[str]:
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "warning" else None)
    return found
