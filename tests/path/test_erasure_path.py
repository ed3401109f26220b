"""A person of the whole product: all that is kept of it is told; then it is erased, and what was does not come back."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import orjson
from eventually import eventually
from stack import Stack, produce
from test_main_path import counted, read
from test_query_cli import headrace

from pipeline.lake.kinds import KINDS

VIEWED = {"event": "Category Viewed", "window": {"rolling": "30d"}}
TABLES = ("customers", "segment_members", *(name for name, kind in KINDS.items() if kind.trail is not None))


def viewed(number: int, who: dict[str, str], at: float) -> dict[str, Any]:
    """A page view at that moment (seconds)."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03}Z"
    event = {"type": "track", "event": "Category Viewed", "messageId": f"v{number}", "timestamp": moment}
    return event | {"properties": {"n": number}} | who


def customers(stack: Stack, *words: str) -> Any:
    """What `headrace customers` says, in JSON."""
    return json.loads(headrace(stack, "customers", *words))


def rows(tenant: Any, table: str, customer: str) -> int:
    """How many of them SQL sees."""
    query = f"SELECT count(*) FROM {table} WHERE customer = '{customer}'"
    answer = tenant.api.post("/sql", json={"query": query}).json()
    return int(answer["rows"][0][0])


async def test_who_is_erased_is_gone_everywhere_and_stays_gone(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="viewed", name="Viewed", condition=VIEWED)
    topic, ann, ben = f"raw.{tenant.id}.app", f"{tenant.id}|u|ann", f"{tenant.id}|u|ben"
    now = time.time() - 60
    past = [
        viewed(1, {"anonymousId": "visitor"}, now),
        viewed(2, {"userId": "ann", "anonymousId": "visitor"}, now + 1),
        {
            "type": "identify",
            "userId": "ann",
            "messageId": "i1",
            "traits": {"email": "Ann@Shop.example", "plan": "pro"},
        },
        viewed(3, {"userId": "ben"}, now + 2),
    ]
    await produce(stack, topic, past)
    await counted(tenant, "viewed", {"customers": 2}, {"app": 2}, 60)

    def all_told() -> dict[str, Any] | None:
        found: dict[str, Any] = customers(stack, "export", tenant.id, "ann@shop.example")
        entered = [each["customer"] for each in found["segment_transitions"] if each["kind"] == "entered"]
        joined = len(found["customer"]["identifiers"]) == 3
        return found if joined and len(found["events"]) == 3 and ann in entered else None

    found = await eventually(lambda: asyncio.to_thread(all_told), 30)
    assert set(found["customer"]["identifiers"]) == {ann, f"{tenant.id}|a|visitor", f"{tenant.id}|e|ann@shop.example"}
    assert found["customer"]["traits"]["plan"] == "pro"
    assert [each["name"] for each in found["events"]] == ["Category Viewed", "Category Viewed", "Identified"]
    assert {each["properties"]["n"] for each in found["events"][:2]} == {1, 2}

    # The lane's process dies when it is asked.
    stack.kill("fanout")
    told = customers(stack, "erase", tenant.id, "ann@shop.example", "--yes", "--json")

    async def done() -> dict[str, Any]:
        found = customers(stack, "erasures", tenant.id, "--json")
        assert len(found) == 1, found
        only: dict[str, Any] = found[0]
        assert (only["id"], only["customer"]) == (told["id"], ann)
        assert only["at"] >= told["requested"]
        assert only["logs_until"] > told["requested"] + 37 * 86_400_000
        return only

    await eventually(done, 60)
    await counted(tenant, "viewed", {"customers": 1}, {"app": 1}, 30)

    async def gone() -> bool:
        for name in (ann, "visitor", "ann@shop.example"):
            assert tenant.api.get(f"/customers/{name}").status_code == 404
        assert all(rows(tenant, table, ann) == 0 for table in TABLES)
        assert all(rows(tenant, table, ben) > 0 for table in TABLES if table != "deliveries")
        return True

    await eventually(gone, 30)
    # The topic is read once more, after the message ids were forgotten.
    await produce(
        stack, topic, [each | {"messageId": f"{each['messageId']}-2"} for each in past if "timestamp" in each]
    )
    await produce(stack, topic, [viewed(9, {"userId": "cat"}, time.time())])
    await counted(tenant, "viewed", {"customers": 2}, {"app": 2}, 30)
    assert await gone()
    # Who comes later is somebody new, without a past.
    await produce(stack, topic, [viewed(10, {"userId": "ann"}, time.time())])
    await counted(tenant, "viewed", {"customers": 3}, {"app": 3}, 30)
    found = await eventually(lambda: asyncio.to_thread(customers, stack, "export", tenant.id, "ann"), 30)
    assert found["customer"]["identifiers"] == [ann]
    assert found["customer"]["traits"] == {}
    await eventually(lambda: rows(tenant, "events", ann) == 1, 30)
    timeline = tenant.get("/customers/ann/timeline")
    assert [each["properties"]["n"] for each in timeline["items"]] == [10]
    # A segment that is made now asks of the past, which is still in Kafka.
    tenant.create("segments", id="often", name="Often", condition=VIEWED | {"count": {"op": ">=", "value": 2}})
    await counted(tenant, "often", {"customers": 1}, {"app": 1}, 60)
    (left,) = [
        change
        for change in (orjson.loads(record.value) for record in await read(stack, "segments.transitions"))
        if change["partner"] == tenant.id and change["cause"] == "erasure"
    ]
    assert (left["customer"], left["kind"], left["identifiers"], left["traits"]) == (ann, "left", [], {})


def test_nobody_is_erased_who_is_not_there(stack: Stack, tenant: Any) -> None:
    answer = tenant.api.delete("/customers/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert tenant.get("/erasures") == {"items": []}
    assert tenant.api.get("/erasures/none").status_code == 404
