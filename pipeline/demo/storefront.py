"""The demo shop's own small HTTP server: pages that carry the tracker, on loopback."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from aiohttp import web

__all__ = ["Storefront"]

_FILES = files("pipeline.demo") / "shop"
_TYPES = {"shop.css": "text/css", "shop.js": "text/javascript"}
_TITLES = {
    "home": "Home",
    "cart": "Cart",
    "favourites": "Favourites",
    "login": "Sign in",
    "register": "Register",
    "checkout": "Checkout",
}
_PLURALS = {"Jacket": "Jackets", "Hat": "Hats", "Bag": "Bags"}


class Storefront:
    """A shop of one host. ``live`` gives the rows of its corner: ``[{"name", "here", "all"}]``.

    Set ``gateway`` and ``key`` before the first page is asked for: the pages carry them.
    """

    def __init__(self, live: Callable[[], list[dict[str, Any]]]) -> None:
        self.gateway = self.key = self.url = ""
        self._live = live
        self._runner: web.AppRunner | None = None
        self._layout = (_FILES / "layout.html").read_text("utf-8")
        self._pages: dict[str, str] = json.loads((_FILES / "pages.json").read_text("utf-8"))
        products = json.loads((_FILES / "products.json").read_text("utf-8"))
        # Inside a script element, `</` would end it.
        self._products = json.dumps(products, ensure_ascii=False).replace("</", "<\\/")
        self._names = {
            "product": {product["sku"]: product["name"] for product in products},
            "category": {p["category"].lower(): p["category"] for p in products},
            "section": {s.lower().replace(" ", "-"): s for p in products for s in p["sections"]},
        }

    @property
    def domain(self) -> str:
        """Host and port, as an event source's domain."""
        return self.url.removeprefix("http://")

    async def start(self, port: int = 0) -> None:
        """Serve on 127.0.0.1; ``port`` 0: a free one. Raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/live", self._serve_live),
                web.get("/{file:shop\\.(?:css|js)}", self._serve_file),
                web.get("/", self._serve_page),
                web.get("/{page:\\w+}", self._serve_page),
                web.get("/{page:section|category|product}/{name}", self._serve_page),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        """Close; requests in flight are cut."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_live(self, request: web.Request) -> web.Response:
        return web.json_response(self._live(), headers={"cache-control": "no-store"})

    async def _serve_file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        return web.Response(
            text=(_FILES / name).read_text("utf-8"), content_type=_TYPES[name], headers={"cache-control": "no-cache"}
        )

    async def _serve_page(self, request: web.Request) -> web.Response:
        if request.host != self.domain:
            # The source takes pages of one domain; `localhost` is another one than 127.0.0.1.
            raise web.HTTPFound(self.url + request.rel_url.raw_path)
        page = request.match_info.get("page", "home")
        given = request.match_info.get("name", "")
        named = self._names.get(page)
        name = named.get(given, "") if named else ""
        if (named and not name) or (not named and page not in _TITLES):
            return self._render("missing", "Not here", "", 404)
        if named is None:
            return self._render(page, _TITLES[page], "")
        return self._render(page, _PLURALS.get(name, name), given if page == "product" else name)

    def _render(self, page: str, title: str, name: str, status: int = 200) -> web.Response:
        text = self._layout.replace("{{main}}", self._pages[page]).replace("{{products}}", self._products)
        shown = {"title": title, "page": page, "name": name, "gateway": self.gateway, "key": self.key}
        for field, value in shown.items():
            text = text.replace("{{" + field + "}}", html.escape(value))
        return web.Response(text=text, status=status, content_type="text/html", headers={"cache-control": "no-store"})
