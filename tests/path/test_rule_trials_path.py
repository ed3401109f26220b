"""Rules as a marketer makes them: checked at save, previewed, in conflict, filtered, mapped, and tested for real."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from eventually import eventually
from stack import Stack, produce
from test_dispatch_path import SECRET, Receiver, receiver
from test_main_path import counted
from test_query_cli import headrace

__all__ = ["receiver"]

# End to end and long: `make test` has its parts.
pytestmark = pytest.mark.faults


async def test_a_rule_is_checked_previewed_tested_and_fires_as_it_says(
    stack: Stack,
    tenant: Any,
    receiver: Receiver,
) -> None:
    made = tenant.create(
        "integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET
    )
    assert made["check"]["ok"] is None  # a webhook can't be asked without telling it something
    rule = {"event": "Wallet Transaction", "integration": "crm"}
    for wrong, path in (
        ({"restrictions": [{"property": "type", "values": ["steal"]}]}, "$.restrictions[0].values[0]"),
        ({"restrictions": [{"property": "colour", "values": ["red"]}]}, "$.restrictions[0].property"),
        ({"filter": "amount > 5"}, "$.filter"),
        ({"mapping": {"colour": 1}}, "$.mapping.colour"),
    ):
        answer = tenant.api.post("/rules", json=rule | wrong)
        assert (answer.status_code, answer.json()["path"]) == (400, path), answer.text
    big = rule | {
        "id": "big",
        "restrictions": [{"property": "type", "values": ["reward"]}],
        "filter": "properties.amount >= 100 && traits.plan == 'gold'",
        "mapping": {"name": "Coins for {$.customer.traits.first_name}", "value": "$.event.properties.amount"},
    }
    assert tenant.create("rules", **big)["conflicts"] == []
    assert tenant.create("rules", **rule, id="all")["conflicts"] == ["big"]
    told = orjson.loads(headrace(stack, "rules", "list", tenant.id, "--json"))
    assert {each["id"]: each["conflicts"] for each in told} == {"big": ["all"], "all": ["big"]}
    version = {"If-Match": '"1"'}
    assert tenant.api.patch("/rules/all", json={"enabled": False}, headers=version).json()["conflicts"] == []
    [event] = [each for each in tenant.get("/rule-events")["items"] if each["event"] == "Wallet Transaction"]
    assert "reward" in event["restrictions"]["type"]

    # A sample of a customer has no plan, so it does not pass; somebody who has is shown the exact request.
    who = {"type": "identify", "userId": "ann", "messageId": "i1"}
    traits = {"email": "ann@shop.example", "first_name": "Ann", "plan": "gold"}
    await produce(stack, f"raw.{tenant.id}.app", [who | {"traits": traits}])
    await eventually(lambda: tenant.api.get("/customers/ann@shop.example").status_code == 200, 60)
    amount = {"properties": {"type": "reward", "amount": 150}}
    shown = tenant.api.post("/rules/preview", json={"rule": "big"} | amount).json()
    assert (shown["fires"], shown["why"]) == (False, "the filter is not true of it")
    shown = tenant.api.post(
        "/rules/preview", json={"rule": "big", "customer": "ann", "properties": {"type": "x"}}
    ).json()
    assert (shown["fires"], shown["why"]) == (False, "the restriction of 'type' does not admit it")
    shown = tenant.api.post("/rules/preview", json={"rule": "big", "customer": "ann"} | amount).json()
    assert shown["fires"], shown
    assert shown["request"]["url"] == receiver.url
    assert shown["request"]["headers"]["webhook-signature"] == "***"
    body = orjson.loads(shown["request"]["body"])
    assert (body["type"], body["data"]["mapped"]) == ("Coins for Ann", {"name": "Coins for Ann", "value": 150})

    # A test goes the whole way, to somebody there is, while sending is on.
    answer = tenant.api.post("/rules/big/test", json={"email": "ann@shop.example"})
    assert (answer.status_code, answer.json()["code"]) == (409, "off"), answer.text
    tenant.api.patch("", json={"sending": True}, headers={"If-Match": str(tenant.get("")["version"])})
    answer = tenant.api.post("/rules/big/test", json={"email": "nobody@shop.example"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_customer"), answer.text
    receiver.answers = [418]
    found = await asyncio.to_thread(lambda: tenant.api.post("/rules/big/test", json={"email": "ann@shop.example"}))
    assert (found.status_code, found.json()["status"], found.json()["test"]) == (200, 418, True), found.text
    told = await asyncio.to_thread(
        headrace, stack, "rules", "test", tenant.id, "big", "--email", "ann@shop.example", "--json"
    )
    assert "Coins for Ann" in told
    assert [each["data"]["test"] for each in receiver.delivered()] == [True]

    # And for real: what passes restriction and filter, by the mapping.
    def paid(number: int, amount: int, kind: str = "reward") -> dict[str, Any]:
        properties = {"type": kind, "amount": amount}
        return {"event": "Wallet Transaction", "userId": "ann", "messageId": f"m{number}", "properties": properties}

    await produce(stack, f"raw.{tenant.id}.app", [paid(1, 99), paid(2, 100, "redeem"), paid(3, 100)])
    await eventually(lambda: len(receiver.delivered()) == 2, 60, what="the one that passes")
    assert receiver.delivered()[1]["data"]["event"]["id"] == "m3"


async def test_a_change_of_a_rule_acts_within_two_seconds(stack: Stack, tenant: Any, receiver: Receiver) -> None:
    tenant.create("integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET)
    tenant.create("rules", id="r", event="Seen", integration="crm", prefix="one ")
    tenant.create("segments", id="seen", name="Seen", condition={"event": "Seen"})
    tenant.api.patch("", json={"sending": True}, headers={"If-Match": str(tenant.get("")["version"])})
    names: list[str] = []
    changes = [
        {"prefix": "two "},
        {"enabled": False},
        {"enabled": True, "filter": "properties.n > 100"},
        {"filter": ""},
    ]
    for number in range(len(changes) + 1):
        if number:
            answer = tenant.api.patch("/rules/r", json=changes[number - 1], headers={"If-Match": str(number)})
            assert answer.status_code == 200, answer.text
        changed = time.monotonic()
        await asyncio.sleep(2)  # the promise itself
        event = {"event": "Seen", "userId": f"u{number}", "messageId": f"m{number}", "properties": {"n": number}}
        await produce(stack, f"raw.{tenant.id}.app", [event])
        await counted(tenant, "seen", {"customers": number + 1}, {"app": number + 1}, 60)
        assert time.monotonic() > changed
    names = ["one Seen", "two Seen", "two Seen"]
    await eventually(lambda: len(receiver.delivered()) == len(names), 60, what="those while it was on")
    told = sorted((each["data"]["event"]["id"], each["type"]) for each in receiver.delivered())
    assert told == [("m0", "one Seen"), ("m1", "two Seen"), ("m4", "two Seen")]
