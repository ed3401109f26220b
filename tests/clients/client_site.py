"""A site of the partner's, on an origin of its own: one empty page, and the npm clients' built files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

__all__ = ["Site", "site_of"]


@dataclass
class Site:
    """``pages``: HTML by path. Everything under ``/npm/`` is a file of the installed packages."""

    url: str = ""
    pages: dict[str, str] = field(default_factory=lambda: {"/": "<!doctype html><title>Shop</title><p>Jackets</p>"})

    @property
    def domain(self) -> str:
        return self.url.removeprefix("http://")


@asynccontextmanager
async def site_of(modules: Path) -> AsyncIterator[Site]:
    site = Site()

    async def page(request: web.Request) -> web.Response:
        if request.path not in site.pages:
            raise web.HTTPNotFound
        return web.Response(text=site.pages[request.path], content_type="text/html")

    app = web.Application()
    app.router.add_static("/npm", modules)
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield site
    finally:
        await runner.cleanup()
