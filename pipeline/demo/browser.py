"""Visits in a real Chromium, and what its tracker was seen to send; or, without one, the same over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from pipeline.demo.ledger import Sent
from pipeline.demo.visits import VISITS, Call, Visit
from pipeline.models.raw import KIND_NAMES

__all__ = ["Settled", "browse", "browser_missing", "imitate"]

#: Waits until a visitor (anonymous id) has so many events on the timeline, or has become that customer.
Settled = Callable[[str, int, str | None], Awaitable[None]]

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
#: Nothing waits in the tracker's outbox: the gateway has answered for all.
_DELIVERED = "!Array.isArray(headrace) && !Object.keys(localStorage).some((key) => key.includes('.e.'))"
_TOGETHER = 2
_STEP_MS = 30_000


def browser_missing() -> str:
    """Why no Chromium can be driven, and what to do; empty when one can."""
    if shutil.which("chromium") is None:
        return "no Chromium here (apt-get install chromium)"
    try:
        import playwright.async_api  # noqa: F401
    except ImportError:
        return "no playwright in this environment (pip install playwright)"
    return ""


async def browse(shop: str, gateway: str, settled: Settled, problems: list[str]) -> list[list[Sent]]:
    """Make the visits; the events of each, in order, as the tracker sent them to ``gateway``.

    What differs from what the visit's steps should send is added to ``problems``.
    """
    from playwright.async_api import async_playwright

    turn = asyncio.Semaphore(_TOGETHER)
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=_ARGUMENTS,
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )
        try:

            async def make(visit: Visit) -> list[Sent]:
                async with turn:
                    context = await chromium.new_context()
                    try:
                        return await _visit(context, visit, shop, gateway, settled, problems)
                    finally:
                        await context.close()

            return await asyncio.gather(*(make(visit) for visit in VISITS))
        finally:
            await chromium.close()


async def _visit(
    context: Any, visit: Visit, shop: str, gateway: str, settled: Settled, problems: list[str]
) -> list[Sent]:
    seen: dict[str, dict[str, Any]] = {}

    def note(request: Any) -> None:
        if request.method == "POST" and request.url.startswith(gateway):
            # The tracker may send an event again; its id tells.
            for event in json.loads(request.post_data or "{}").get("batch", []):
                seen.setdefault(event["messageId"], event)

    def complain(said: Any) -> None:
        if said.type in ("error", "warning"):
            problems.append(f"the shop says: {said.text}")

    context.on("request", note)
    context.set_default_timeout(_STEP_MS)
    page = await context.new_page()
    page.on("console", complain)
    for step in visit.steps:
        if step.do == "open":
            await page.goto(shop + step.target, wait_until="load")
        elif step.do == "click":
            await page.click(step.target)
        else:
            anonymous = await page.evaluate("localStorage.hr_aid")
            await settled(anonymous, len(seen), None)
            for name, value in step.fields:
                await page.fill(f"{step.target} [name={name}]", value)
            await page.click(f"{step.target} button")
        await page.wait_for_function(_DELIVERED)
        if step.user:
            await settled(anonymous, 0, step.user)
    events = sorted(seen.values(), key=lambda event: event["timestamp"])
    sent = [_sent(event) for event in events]
    wanted, found = Counter(name for name, _ in visit.calls), Counter(event.name for event in sent)
    if wanted != found:
        problems.append(
            f"{visit.name}: the tracker did not send {dict(wanted - found)}, and sent {dict(found - wanted)} too much"
        )
    return sent


def _sent(event: dict[str, Any]) -> Sent:
    return Sent(
        source="online-store",
        channel="Web",
        id=event["messageId"],
        name=event.get("event") or KIND_NAMES[event["type"]],
        user=event.get("userId"),
        anonymous=event.get("anonymousId"),
        properties=event.get("properties") or {},
    )


async def imitate(shop: str, gateway: str, key: str, settled: Settled) -> list[list[Sent]]:
    """The same visits, sent as the tracker would send them. Raises httpx.HTTPError when the gateway refuses."""
    async with httpx.AsyncClient(base_url=gateway, headers={"origin": shop}, timeout=30, trust_env=False) as client:
        return [await _imitated(client, visit, key, settled) for visit in VISITS]


async def _imitated(client: httpx.AsyncClient, visit: Visit, key: str, settled: Settled) -> list[Sent]:
    anonymous, user = secrets.token_hex(16), None
    sent: list[Sent] = []
    first: list[Call] = [("Visit Started", {})]
    for step in visit.steps:
        if step.user:
            await settled(anonymous, len(sent), None)
            user = step.user
        batch = [_document(name, properties, anonymous, user) for name, properties in [*first, *step.calls]]
        (await client.post("/v1/batch", json={"writeKey": key, "batch": batch})).raise_for_status()
        sent += [_sent(event) for event in batch]
        first = []
        if step.user:
            await settled(anonymous, 0, user)
    return sent


def _document(name: str, properties: dict[str, Any], anonymous: str, user: str | None) -> dict[str, Any]:
    kinds = {"Page Viewed": "page", "Identified": "identify"}
    document: dict[str, Any] = {"type": kinds.get(name, "track"), "messageId": str(uuid.uuid4())}
    if name not in kinds:
        document["event"] = name
    if name == "Order Completed":
        properties = {"order_id": uuid.uuid4().hex[:8]} | properties
    return document | {"anonymousId": anonymous, "userId": user, "properties": properties}
