"""Producers straight to raw -> intake -> fan-out -> counts, and kill -9 in the middle."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from typing import Any

import orjson
from eventually import eventually
from records import read_all
from stack import Stack, produce

from pipeline.client import Headrace

JACKET = {
    "event": "Category Viewed",
    "where": [{"property": "category", "op": "equals", "value": "Jacket"}],
    "window": {"rolling": "30d"},
}


async def read(stack: Stack, topic: str) -> list[Any]:
    """Every committed record of a topic, as of now."""
    return await read_all(stack.client(), topic)


async def counted(tenant: Any, segment: str, total: dict[str, int], by_source: dict[str, int], timeout: float) -> Any:
    """Wait until the segment's figures are these, complete and fresh; the answer."""

    def same() -> Any:
        answer = tenant.get(f"/segments/{segment}/counts")
        assert {k: answer["total"][k] for k in total} == total, answer
        assert {row["name"]: row["customers"] for row in answer["by_source"]} == by_source, answer
        return answer if answer["complete"] and answer["lag_ms"] < 3000 else None

    return await eventually(same, timeout, what=f"{segment}: {total} {by_source}")


MEMBERS = ("u|ann", "u|bob", "u|dee", "u|eve", "a|anon-1")


async def members(tenant: Any, path: str, expected: set[str]) -> None:
    """Wait until the members under ``path`` are these."""

    def same() -> bool:
        assert {member["customer"] for member in tenant.get(path)["items"]} == expected
        return True

    await eventually(same, 20, what=f"{path}: {expected}")


async def test_counts_by_source_and_channel_of_events_that_went_through_kafka(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="jackets", name="Jackets", condition=JACKET)
    shop, app = f"raw.{tenant.id}.online-store", f"raw.{tenant.id}.app"

    def view(user: str, category: str = "Jacket", **more: Any) -> dict[str, Any]:
        return {"event": "Category Viewed", "userId": user, "properties": {"category": category}} | more

    await produce(
        stack,
        shop,
        [view("ann"), view("bob"), view("cy", "Hat"), {**view("x"), "userId": None, "anonymousId": "anon-1"}],
    )
    await produce(
        stack, app, [view("bob"), view("dee"), view("old", timestamp=int(time.time() * 1000) - 31 * 86_400_000)]
    )
    twice = view("eve", messageId="same")
    await produce(stack, app, [twice, twice])
    answer = await counted(
        tenant, "jackets", {"customers": 5, "identified": 4, "anonymous": 1}, {"app": 3, "online-store": 3}, 60
    )
    assert {row["name"]: row["customers"] for row in answer["by_channel"]} == {"Mobile": 3, "Web": 3}
    # Counts and customers are two topics, and the API follows each by itself.
    await members(tenant, "/segments/jackets/members", {f"{tenant.id}|{u}" for u in MEMBERS})
    beside = tenant.get("/segments/jackets/overlap?source=online-store&with_source=app")
    assert {key: beside[key] for key in ("only_a", "only_b", "both", "either")} == {
        "only_a": 2,
        "only_b": 2,
        "both": 1,
        "either": 5,
    }
    assert beside["complete"]
    assert tenant.api.get("/segments/jackets/overlap").status_code == 400
    why = tenant.get("/segments/jackets/explain/eve")
    assert (why["customer"], why["member"], why["scopes"]) == (f"{tenant.id}|u|eve", True, ["*", "s:app", "c:Mobile"])
    assert [(event["id"], event["source"]) for event in why["why"]["because"]] == [("same", "app")]
    assert why["why"]["until"] > why["as_of"]
    out = tenant.get("/segments/jackets/explain/cy")
    assert (out["member"], out["why"]["holds"], out["why"]["because"]) == (False, False, [])
    assert tenant.api.get("/segments/jackets/explain/nobody").status_code == 404
    await members(tenant, "/segments/jackets/members?source=app", {f"{tenant.id}|u|{u}" for u in ("bob", "dee", "eve")})
    timeline = await eventually(lambda: (t := tenant.get("/customers/eve/timeline"))["items"] and t, 20)
    assert [(e["name"], e["source"], e["channel"]) for e in timeline["items"]] == [("Category Viewed", "app", "Mobile")]


async def test_an_anonymous_visitor_who_signs_in_is_one_customer(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="twice", name="Twice", condition=JACKET | {"count": {"op": ">=", "value": 2}})
    shop = f"raw.{tenant.id}.online-store"
    view = {"event": "Category Viewed", "properties": {"category": "Jacket"}}
    await produce(stack, shop, [view | {"anonymousId": "a1"}])
    await produce(
        stack, shop, [{"type": "identify", "userId": "ann", "anonymousId": "a1", "traits": {"email": "a@b.example"}}]
    )
    await produce(stack, f"raw.{tenant.id}.app", [view | {"userId": "ann"}])
    # One view in each source: two in all, and neither source alone has two.
    await counted(tenant, "twice", {"customers": 1, "identified": 1, "anonymous": 0}, {}, 60)
    identifiers = {f"{tenant.id}|u|ann", f"{tenant.id}|a|a1", f"{tenant.id}|e|a@b.example"}

    def joined() -> bool:
        person = tenant.get("/customers/a1")
        return person["id"] == f"{tenant.id}|u|ann" and set(person["identifiers"]) == identifiers

    await eventually(joined, 20, what="one customer under three identifiers")
    # A straggler under the anonymous id still reaches the customer.
    await produce(stack, shop, [view | {"anonymousId": "a1"}])
    await counted(tenant, "twice", {"customers": 1}, {"online-store": 1}, 60)


async def test_time_alone_moves_customers_out_with_no_event(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="now", name="Just now", condition=JACKET | {"window": {"rolling": "4s"}})
    await produce(
        stack,
        f"raw.{tenant.id}.app",
        [{"event": "Category Viewed", "userId": f"u{n}", "properties": {"category": "Jacket"}} for n in range(20)],
    )
    await counted(tenant, "now", {"customers": 20}, {"app": 20}, 60)
    await counted(tenant, "now", {"customers": 0}, {}, 30)
    moves = [orjson.loads(r.value) for r in await read(stack, "segments.transitions")]
    mine = [m for m in moves if m["partner"] == tenant.id]
    events = [orjson.loads(r.value) for r in await read(stack, "history")]
    happened = {e["customer"]: e["time"] for e in events if e["partner"] == tenant.id}
    left = {m["customer"]: m for m in mine if m["kind"] == "left"}
    assert len(left) == 20
    assert all(m["cause"] == "time" and m["at"] == happened[c] + 4001 for c, m in left.items())
    assert len({m["id"] for m in mine}) == 40


async def test_while_somebody_leaves_each_second_and_nothing_else_happens_the_time_is_told(
    stack: Stack, tenant: Any
) -> None:
    tenant.create("segments", id="now", name="Just now", condition=JACKET | {"window": {"rolling": "10s"}})
    # So that, for ten seconds from now, ten leave each second.
    began = int(time.time() * 1000) - 10_000
    views = [
        {
            "event": "Category Viewed",
            "userId": f"u{n}",
            "timestamp": began + 100 * n,
            "properties": {"category": "Jacket"},
        }
        for n in range(100)
    ]
    await produce(stack, f"raw.{tenant.id}.app", views)

    def answer() -> Any:
        return tenant.get("/segments/now/counts")

    await eventually(lambda: answer()["total"]["customers"], 30)
    behind = []

    def none_left() -> bool:
        found = answer()
        behind.append(found["lag_ms"])
        return bool(found["total"]["customers"] == 0)

    await eventually(none_left, 60)
    assert max(behind) < 6000, behind


async def test_garbage_ends_in_rejected_with_reason_and_bytes_and_stops_nothing(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="all", name="All", condition={"event": "Seen"})
    big = b'{"event":"Seen","userId":"big","properties":{"a":"' + b"x" * 999_000 + b'"}}'
    huge = b'{"event":"Seen","userId":"huge","properties":{"a":"' + b"x" * 1_020_000 + b'"}}'
    deep = b'{"event":"Seen","userId":"deep","properties":' + b'{"a":' * 3000 + b"1" + b"}" * 3001
    bad: dict[str, list[bytes | None]] = {
        "not_json": [b"\x00\xff garbage", b"{", deep],
        "empty": [b"", None],
        "not_an_object": [b"[]", b"42"],
        "shape": [b'{"event":["Seen"],"userId":"u"}'],
        "no_identity": [b'{"event":"Seen"}'],
        "bad_time": [b'{"event":"Seen","userId":"u","timestamp":"soon"}'],
        "wrong_code": [b'{"event":"Seen","userId":"u","writeKey":"other.key"}'],
        "too_large": [huge],
    }
    good = {"event": "Seen", "userId": "🧥🧥", "properties": {"🙂": "🙃"}, "unknown 🤷": {"x": [None]}}
    records: list[dict[str, Any] | bytes | None] = [r for values in bad.values() for r in values]
    await produce(stack, f"raw.{tenant.id}.app", [*records, big, good])
    await counted(tenant, "all", {"customers": 2}, {"app": 2}, 60)

    async def rejected() -> dict[str, list[bytes | None]]:
        found: dict[str, list[bytes | None]] = {}
        for record in await read(stack, "rejected"):
            row = orjson.loads(record.value)
            if row["partner"] == tenant.id:
                value = base64.b64decode(row["value"]) if row["value"] is not None else None
                found.setdefault(row["reason"], []).append(value)
        return {reason: sorted(values, key=lambda v: v or b"") for reason, values in found.items()}

    expected = {reason: sorted(values, key=lambda v: v or b"") for reason, values in bad.items()}

    async def same() -> bool:
        return await rejected() == expected

    await eventually(same, 30, what="every bad record among the rejected, with its bytes")
    with Headrace(stack.api, tenant.id) as client:
        found = client.sql("SELECT reason, count(*) AS n FROM rejected WHERE source = 'app' GROUP BY ALL").rows()
        assert {row["reason"]: row["n"] for row in found} == {reason: len(values) for reason, values in bad.items()}


async def test_a_source_switched_off_is_refused_within_two_seconds_and_on_again_counts(
    stack: Stack, tenant: Any
) -> None:
    tenant.create("segments", id="seen", name="Seen", condition={"event": "Seen"})
    topic = f"raw.{tenant.id}.app"
    await produce(stack, topic, [{"event": "Seen", "userId": "a"}])
    await counted(tenant, "seen", {"customers": 1}, {"app": 1}, 60)
    tenant.edit("/sources/app", active=False)
    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    await produce(stack, topic, [{"event": "Seen", "userId": "b"}])

    async def refused() -> bool:
        rows = [orjson.loads(r.value) for r in await read(stack, "rejected")]
        return [r["reason"] for r in rows if r["partner"] == tenant.id] == ["inactive_source"]

    await eventually(refused, 20)
    tenant.edit("/sources/app", active=True, code="app2")
    await asyncio.sleep(2)
    await produce(
        stack,
        topic,
        [{"event": "Seen", "userId": "c"}, {"event": "Seen", "userId": "d", "writeKey": f"{tenant.id}.app"}],
    )
    await counted(tenant, "seen", {"customers": 2}, {"app": 2}, 30)


async def test_an_edited_segment_keeps_no_old_members(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="s", name="S", condition={"event": "Seen"})
    await produce(stack, f"raw.{tenant.id}.app", [{"event": "Seen", "userId": f"u{n}"} for n in range(30)])
    await counted(tenant, "s", {"customers": 30}, {"app": 30}, 60)
    tenant.edit("/segments/s", condition={"event": "Never"})

    def none_left() -> bool:
        answer = tenant.get("/segments/s/counts")
        return bool(answer["total"]["customers"] == 0 and answer["version"] == 2)

    await eventually(none_left, 30)
    await members(tenant, "/segments/s/members", set())
    # It says that what came before the edit is not in the numbers.
    assert tenant.get("/segments/s/counts")["complete"] is False


async def test_counts_are_the_same_after_kill_9_of_the_workers_in_the_middle(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="jackets", name="Jackets", condition=JACKET)
    tenant.create("segments", id="often", name="Often", condition=JACKET | {"count": {"op": ">=", "value": 3}})
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    views: dict[str, dict[str, int]] = {"app": {}, "online-store": {}}
    total: dict[str, int] = {}
    for wave in range(6):
        for source in views:
            events = []
            for n in range(1500):
                user = f"u{rng.randrange(900)}"
                jacket = rng.random() < 0.6
                who = {"anonymousId": f"anon-{user}"} if rng.random() < 0.3 else {"userId": user}
                events.append(
                    who
                    | {
                        "event": "Category Viewed",
                        "messageId": f"{wave}-{n}",
                        "properties": {"category": "Jacket" if jacket else "Hat"},
                    }
                )
                if jacket:
                    views[source][user] = views[source].get(user, 0) + 1
                    total[user] = total.get(user, 0) + 1
                if rng.random() < 0.05:
                    events.append(events[-1])  # a duplicate, to be counted once
            await produce(stack, f"raw.{tenant.id}.{source}", events)
        victim = ("fanout", "intake")[wave % 2]
        if wave < 4:
            await eventually(lambda victim=victim: stack.kill(victim), 30, what=f"{victim} running, to be killed")
    # Now everybody signs in: what was done anonymously becomes theirs, moved between lanes.
    people = [{"type": "identify", "userId": u, "anonymousId": f"anon-{u}", "messageId": f"id-{u}"} for u in total]
    await produce(stack, f"raw.{tenant.id}.app", people)
    expected = {source: len(users) for source, users in views.items()}
    await counted(tenant, "jackets", {"customers": len(total), "identified": len(total)}, expected, 120)
    often = {s: sum(n >= 3 for n in users.values()) for s, users in views.items()}
    await counted(tenant, "often", {"customers": sum(n >= 3 for n in total.values())}, often, 60)
    # Each event reached history once, however often it was sent and whoever was killed.
    ids = [
        (e["source"], e["id"])
        for r in await read(stack, "history")
        if (e := orjson.loads(r.value))["partner"] == tenant.id
    ]
    assert len(ids) == len(set(ids)) == 6 * 2 * 1500 + len(people)


async def test_an_event_that_waits_in_raw_holds_the_clock_back_so_lag_causes_no_false_exit(
    stack: Stack, tenant: Any
) -> None:
    tenant.create("segments", id="now", name="Just now", condition=JACKET | {"window": {"rolling": "5s"}})
    topic = f"raw.{tenant.id}.app"

    def view(number: int) -> dict[str, Any]:
        return {
            "event": "Category Viewed",
            "userId": "ann",
            "messageId": str(number),
            "properties": {"category": "Jacket"},
        }

    await produce(stack, topic, [view(1)])
    await counted(tenant, "now", {"customers": 1}, {"app": 1}, 60)
    intake = stack.process("worker", "--roles", "intake")
    intake.suspend()
    try:
        await produce(stack, topic, [view(2)])
        second = (await read(stack, topic))[-1].timestamp
        # By the wall clock her first view is out of the window now; by the product's clock it is not.
        await eventually(lambda: time.time() * 1000 > second + 5500, 20)
        assert tenant.get("/segments/now/counts")["total"]["customers"] == 1
    finally:
        intake.resume()
    await counted(tenant, "now", {"customers": 0}, {}, 60)
    moves = [orjson.loads(r.value) for r in await read(stack, "segments.transitions")]
    mine = [(m["kind"], m["cause"], m["at"]) for m in moves if m["partner"] == tenant.id]
    assert [kind for kind, _, _ in mine] == ["entered", "left"]
    assert mine[1] == ("left", "time", second + 5001)
