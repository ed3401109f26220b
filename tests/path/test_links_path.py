"""Tracked links and pixels through all of it: made by the API, fetched at the gateway, on the customer's timeline."""

from __future__ import annotations

from typing import Any

import httpx
from eventually import eventually
from stack import Stack

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
#: Where readers reach the gateway; these tests do elsewhere.
PUBLIC = {"address": "https://links.shop.example"}
URL = "https://shop.example/spring?x=1#y"


async def test_a_click_and_an_open_of_an_email_count_for_who_it_was_sent_to(stack: Stack, tenant: Any) -> None:
    tenant.create(
        "sources",
        id="mail",
        name="Mail",
        code="mail",
        bridge="links",
        channel="Email",
        secret="s3cret",
        settings=PUBLIC,
    )
    clicked = {"event": "Link Clicked", "where": [{"property": "url", "value": URL}]}
    tenant.create("segments", id="clicked", name="Clicked", condition=clicked)
    recipient = {"email": "Ann@Shop.example"}
    asked = [{"url": URL, "link": "header", "recipient": recipient}, {"recipient": recipient}]
    made = tenant.api.post("/sources/mail/links", json={"links": asked})
    header, pixel = (item["address"] for item in made.json()["items"])
    async with httpx.AsyncClient(headers={"user-agent": FIREFOX}, timeout=30) as reader:

        async def leads_on() -> bool:
            answer = await reader.get(_at(stack, header))
            assert (answer.status_code, answer.headers.get("location")) == (302, URL)  # once the gateway knows of it
            return True

        await eventually(leads_on, 10)
        answer = await reader.get(_at(stack, pixel))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/gif")

    def known() -> bool:
        timeline = tenant.get("/customers/ann@shop.example/timeline")
        assert {event["name"] for event in timeline["items"]} == {"Link Clicked", "Email Opened"}
        assert {event["channel"] for event in timeline["items"]} == {"Email"}
        counts = tenant.get("/segments/clicked/counts")
        return [(row["name"], row["customers"]) for row in counts["by_channel"]] == [("Email", 1)]

    await eventually(known, 60)
    assert tenant.get("/customers/ann@shop.example")["id"] == f"{tenant.id}|e|ann@shop.example"


def _at(stack: Stack, address: str) -> str:
    """The address, at the gateway of these tests itself."""
    return stack.gateway + httpx.URL(address).raw_path.decode()
