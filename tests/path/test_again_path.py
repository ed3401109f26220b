"""Telling tools again through the whole product: the delivery log, resend, replay, undeliverables redriven once."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from eventually import eventually
from stack import Stack, produce
from test_dispatch_path import SECRET, Receiver, receiver
from test_query_cli import headrace

__all__ = ["receiver"]

# End to end and long: `make test` has its parts.
pytestmark = pytest.mark.faults


def asked(stack: Stack, *words: str) -> Any:
    return orjson.loads(headrace(stack, "deliveries", *words, "--json"))


async def test_what_was_told_is_listed_and_told_again_with_the_same_key(
    stack: Stack, tenant: Any, receiver: Receiver
) -> None:
    tenant.create("integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET)
    tenant.create("rules", id="r", event="Seen", integration="crm")
    tenant.api.patch("", json={"sending": True}, headers={"If-Match": str(tenant.get("")["version"])})
    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    receiver.answers = [422, 422]
    users = ["a", "b", "c", "d"]
    for user in users:
        await produce(stack, f"raw.{tenant.id}.app", [{"event": "Seen", "userId": user, "messageId": user}])
        await eventually(lambda user=user: len(receiver.got) == users.index(user) + 1, 60, what=f"{user} told")

    def listed() -> Any:
        found = tenant.get("/deliveries")["items"]
        return found if len(found) == 4 else None

    found = await eventually(lambda: asyncio.to_thread(listed), 30, what="all four attempts in the log")
    assert [each["outcome"] for each in found] == ["ok", "ok", "invalid", "invalid"]
    shown = orjson.loads(headrace(stack, "deliveries", "show", tenant.id, found[0]["id"], "--json"))
    assert (shown["status"], shown["request"]["headers"]["webhook-signature"]) == (200, "***")
    assert orjson.loads(shown["request"]["body"])["data"]["event"]["id"] == "d"
    [only] = tenant.get(f"/deliveries?customer={tenant.id}|u|d&outcome=ok")["items"]
    assert only["id"] == found[0]["id"]

    # One again: the same key, marked as replayed.
    key = found[0]["id"]
    done = await asyncio.to_thread(asked, stack, "resend", tenant.id, key)
    assert (done["found"], done["sent"]) == (1, 1)
    await eventually(lambda: len(receiver.got) == 5, 30, what="the one that was resent")
    headers, body = receiver.got[4]
    assert headers["webhook-id"] == key
    assert orjson.loads(body)["data"]["replayed"] is True
    assert tenant.api.post("/deliveries/nothing/resend").status_code == 404

    # What it never took: listed with its reason, redriven once.
    given_up = await asyncio.to_thread(asked, stack, "undeliverable", tenant.id, "crm")
    assert sorted(each["undeliverable"]["dispatch"]["event"]["id"] for each in given_up) == ["a", "b"]
    assert {each["undeliverable"]["reason"] for each in given_up} == {"invalid"}
    dry = await asyncio.to_thread(asked, stack, "redrive", tenant.id, "crm", "--dry-run")
    assert (dry["found"], dry["sent"]) == (2, 0)
    first = next(each["id"] for each in given_up if each["undeliverable"]["dispatch"]["event"]["id"] == "a")
    one = await asyncio.to_thread(asked, stack, "redrive", tenant.id, "crm", first)
    rest = await asyncio.to_thread(asked, stack, "redrive", tenant.id, "crm")
    none = await asyncio.to_thread(asked, stack, "redrive", tenant.id, "crm")
    assert [(each["sent"], each["before"]) for each in (one, rest, none)] == [(1, 0), (1, 1), (0, 2)]
    await eventually(lambda: len(receiver.got) == 7, 30, what="both that were redriven")
    keys = [headers["webhook-id"] for headers, _ in receiver.got]
    assert sorted(keys[5:]) == sorted(keys[:2])
    assert all(each["redriven"] for each in await asyncio.to_thread(asked, stack, "undeliverable", tenant.id, "crm"))

    # A range again, at a rate, in steps that go on where the one before ended. What was told again is there twice.
    customer = f"{tenant.id}|u|c"
    dry = await asyncio.to_thread(asked, stack, "replay", tenant.id, "crm", "--customer", customer, "--dry-run")
    assert (dry["found"], dry["sent"]) == (1, 0)
    step = tenant.api.post("/integrations/crm/replay", json={"limit": 2, "name": "Seen"}).json()
    assert (step["found"], step["sent"]) == (2, 2)
    total = 2
    ends = step["next"]
    while ends:
        step = tenant.api.post("/integrations/crm/replay", json={"limit": 2, "name": "Seen", "after": ends}).json()
        total, ends = total + step["sent"], step["next"]
    assert total == 4
    await eventually(lambda: len(receiver.got) == 11, 60, what="all that were replayed, and none twice")
    assert {headers["webhook-id"] for headers, _ in receiver.got} == set(keys)

    # And how the tool is doing.
    state = tenant.get("/integrations/crm/state")
    assert (state["state"], state["closed"], state["failing_since"]) == ("on", None, None)
    assert state["ok_at"] is not None
    receiver.answers = [401] * 50
    await produce(stack, f"raw.{tenant.id}.app", [{"event": "Seen", "userId": "e", "messageId": "e"}])

    def paused() -> bool:
        told = orjson.loads(headrace(stack, "integrations", "status", tenant.id, "crm", "--json"))
        return told["state"] == "paused" and "401" in told["closed"]["reason"] and told["failing_since"] is not None

    await eventually(lambda: asyncio.to_thread(paused), 30, what="the pause to be told")
