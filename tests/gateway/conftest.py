"""What the tracker's tests stand on: one Chromium a module, a tab, a site and a gateway that records."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web
from chromium_args import CHROMIUM_ARGS
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from tracker_world import World, serving

ARGS = [
    *CHROMIUM_ARGS,
    # Plain http sites that are not loopback: no secure context, so no locks and no secure cookies.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]


@pytest_asyncio.fixture(loop_scope="module")
async def world() -> AsyncIterator[World]:
    world = World()
    site, gateway = web.Application(), web.Application()
    site.router.add_get("/{path:.*}", world.serve_page)
    gateway.router.add_get("/{build:tracker.*}", world.serve_script)
    gateway.router.add_route("*", "/v1/batch", world.take)
    async with serving(site) as site_port, serving(gateway) as gateway_port:
        world.site = f"http://127.0.0.1:{site_port}"
        world.gateway = f"http://127.0.0.1:{gateway_port}"
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(locale="de-AT")
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A tab; no exception may reach it."""
    page = await context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    assert not errors
