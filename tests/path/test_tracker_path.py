"""A page with the tracker, in a real Chromium, through the real gateway to the counts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from aiohttp import web
from chromium_args import CHROMIUM_ARGS
from eventually import eventually
from playwright.async_api import async_playwright
from stack import Stack


class Shop:
    """Serves one page that carries the tracker, on a port of its own."""

    def __init__(self) -> None:
        self.key = ""
        self.gateway = ""
        self.domain = ""

    async def page(self, request: web.Request) -> web.Response:
        html = (
            f"<!doctype html><title>Shop</title><script>window.headrace=window.headrace||[]</script>"
            f'<script async src="{self.gateway}/tracker.min.js" data-key="{self.key}"></script>'
        )
        return web.Response(text=html, content_type="text/html")


@pytest.fixture
async def shop(stack: Stack, tenant: Any) -> AsyncIterator[Shop]:
    made = Shop()
    app = web.Application()
    app.router.add_get("/", made.page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.domain = f"127.0.0.1:{runner.addresses[0][1]}"
    made.gateway = stack.gateway
    made.key = tenant.edit("/sources/online-store", domain=made.domain)["key"]
    yield made
    await runner.cleanup()


@pytest.mark.chromium
async def test_what_a_visitor_does_is_counted_and_joined_when_she_signs_in(
    chromium: str, tenant: Any, shop: Shop
) -> None:
    jacket = {
        "event": "Category Viewed",
        "where": [{"property": "category", "value": "Jacket"}],
        "source": "online-store",
    }
    tenant.create("segments", id="jackets", name="Jackets", condition=jacket | {"window": {"rolling": "30d"}})
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        page = await browser.new_page()
        await page.goto(f"http://{shop.domain}/")
        await page.evaluate("headrace.push(['category', 'Jacket'])")

        def anonymous() -> bool:
            total = tenant.get("/segments/jackets/counts")["total"]
            return bool(total == {"customers": 1, "identified": 0, "anonymous": 1})

        await eventually(anonymous, 60, what="one anonymous visitor")
        await page.evaluate("headrace.login('ann', {email: 'ann@shop.example'})")
        await page.evaluate("headrace.order({order_id: 'o1', total: 99.5})")

        def identified() -> bool:
            total = tenant.get("/segments/jackets/counts")["total"]
            return bool(total == {"customers": 1, "identified": 1, "anonymous": 0})

        await eventually(identified, 60, what="the same one, identified")
        await browser.close()

    def complete() -> Any:
        items = tenant.get("/customers/ann/timeline")["items"]
        return {item["name"] for item in items} >= {"Identified", "Signed In", "Order Completed"} and items

    events = await eventually(complete, 30)
    assert len([item for item in events if item["name"] == "Order Completed"]) == 1


@pytest.mark.chromium
async def test_events_of_a_closed_page_arrive_and_a_page_that_asks_first_can_read_its_answer(
    chromium: str, stack: Stack, tenant: Any, shop: Shop
) -> None:
    def known() -> bool:
        answer = httpx.post(f"{stack.gateway}/v1/batch", json={"writeKey": shop.key, "batch": []})
        return answer.status_code != 401

    await eventually(known, 10, what="the source in force at the gateway")
    call = f"""fetch("{stack.gateway}/v1/track", {{
      method: "POST",
      headers: {{ "Content-Type": "application/json", Authorization: "Basic " + btoa("{shop.key}:") }},
      body: JSON.stringify({{ event: "Asked First", userId: "ann" }}),
    }}).then((answer) => answer.status, (error) => error.name)"""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        page = await browser.new_page()
        await page.goto(f"http://{shop.domain}/")
        assert await page.evaluate(call) == 200
        elsewhere = await browser.new_page()
        await elsewhere.goto(f"http://{shop.domain.replace('127.0.0.1', 'localhost')}/")
        assert await elsewhere.evaluate(call) == 403, "refused, and it can read so"
        await page.wait_for_function("!Array.isArray(headrace)")
        await page.evaluate("headrace.login('ann'); headrace.track('Closing')")
        await page.close()

        def arrived() -> bool:
            names = {item["name"] for item in tenant.get("/customers/ann/timeline")["items"]}
            return names >= {"Asked First", "Signed In", "Closing"}

        await eventually(arrived, 60, what="what the closed page had to say")
        await browser.close()


async def test_a_page_of_another_domain_is_refused_and_told_why(stack: Stack, tenant: Any, shop: Shop) -> None:
    body = {"writeKey": shop.key, "batch": [{"type": "track", "event": "Seen", "anonymousId": "x"}]}

    def refused() -> Any:
        answer = httpx.post(
            f"{stack.gateway}/v1/batch", content=json.dumps(body), headers={"Origin": "https://evil.example"}
        )
        assert answer.status_code == 403, answer.text
        return answer

    answer = await eventually(refused, 10, what="the domain in force at the gateway")
    assert answer.json()["code"] == "wrong_domain"
    assert "evil.example" in answer.json()["message"]


async def test_a_key_that_names_no_source_is_refused(stack: Stack, tenant: Any) -> None:
    answer = httpx.post(
        f"{stack.gateway}/v1/track", json={"writeKey": f"{tenant.id}.nothing", "event": "E", "userId": "u"}
    )
    assert answer.status_code == 401
    assert f"{tenant.id}.nothing" in answer.json()["message"]
