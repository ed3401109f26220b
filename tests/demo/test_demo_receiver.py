"""The demo's receiver, against signatures made by the specification's own library."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from standardwebhooks import Webhook

from pipeline.demo.receiver import Received, Receiver, verify

BODY = json.dumps(
    {
        "type": "Shop: Order Completed",
        "timestamp": "2026-01-31T12:00:00.000Z",
        "data": {"customer": {"id": "p|u|ann"}, "event": {"id": "m1"}, "rule": "orders", "test": False},
    }
)


def signed(secret: str, seconds: int | None = None, body: str = BODY) -> dict[str, str]:
    moment = int(time.time()) if seconds is None else seconds
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(moment, UTC), body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(moment), "webhook-signature": signature}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    await made.start()
    yield made
    await made.stop()


def test_the_librarys_signatures_are_right_and_others_are_not() -> None:
    secret, other = Receiver().secret, Receiver().secret
    now = 1_800_000_000
    headers = signed(secret, now)
    assert verify(secret, headers, BODY.encode(), now) == ""
    both = headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    assert verify(secret, both, BODY.encode(), now + 299) == ""
    assert "no signature" in verify(other, headers, BODY.encode(), now)
    assert "no signature" in verify(secret, headers, BODY.encode() + b" ", now)
    assert "no signature" in verify(secret, headers | {"webhook-id": "msg_2"}, BODY.encode(), now)
    assert "no signature" in verify(secret, headers | {"webhook-signature": "é"}, BODY.encode(), now)
    assert "off" in verify(secret, headers, BODY.encode(), now + 301)
    assert "missing" in verify(secret, {}, BODY.encode(), now)
    assert "missing" in verify(secret, headers | {"webhook-timestamp": "soon"}, BODY.encode(), now)


async def test_it_records_what_came_and_refuses_what_is_forged(receiver: Receiver) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        good = await client.post(receiver.url, content=BODY, headers=signed(receiver.secret))
        forged = await client.post(receiver.url, content=BODY, headers=signed(Receiver().secret))
        odd = await client.post(receiver.url, content="[]", headers=signed(receiver.secret, body="[]"))
        listed = (await client.get(receiver.url.removesuffix("/hook") + "/received")).json()
    assert (good.status_code, forged.status_code, odd.status_code) == (200, 401, 401)
    first = Received("msg_1", "Shop: Order Completed", "orders", "p|u|ann", "m1")
    assert receiver.received[0] == first
    assert [bool(row.fault) for row in receiver.received] == [False, True, True]
    assert listed[0]["event"] == "m1"
    assert len(listed) == 3
