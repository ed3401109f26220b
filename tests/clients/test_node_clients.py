"""Segment's and Jitsu's clients for node, as they are, through the gateway to Kafka."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from client_payloads import CONTEXT, RICH, STAMP, WHEN
from faulty_front import LOST, Fault, Front
from landed_events import differences, name_of
from npm_modules import run_node, version_of

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]


#: Method of Segment's client, its argument, and what it is called here (`name_of`).
SEGMENT: list[tuple[str, dict[str, Any], str]] = [
    ("identify", {"userId": "u-1", "traits": {"email": "ada@example.org", **RICH}}, "identify"),
    ("track", {"userId": "u-1", "event": "Product Viewed", "properties": RICH}, "Product Viewed"),
    ("track", {"anonymousId": "a-1", "event": "Bare"}, "Bare"),
    ("page", {"userId": "u-1", "category": "Docs", "name": "Home", "properties": {"all": RICH}}, "page"),
    ("screen", {"userId": "u-1", "category": "App", "name": "Start", "properties": {"all": RICH}}, "screen"),
    ("group", {"userId": "u-1", "groupId": "g-1", "traits": {"plan": "gold"}}, "group"),
    ("alias", {"previousId": "a-1", "userId": "u-1"}, "alias"),
]


@pytest.mark.parametrize("flush_at", [1, 15], ids=["single", "batch"])
async def test_every_call_of_segments_node_client(gateway: Any, front: Front, modules: Path, flush_at: int) -> None:
    source = await gateway.source("rest")
    calls = [[method, {**call, "timestamp": STAMP, "context": CONTEXT}] for method, call, _ in SEGMENT]
    settings = {"writeKey": source.key, "host": front.url, "flushAt": flush_at, "flushInterval": 50}
    before = datetime.now(UTC) - timedelta(seconds=1)
    said = await run_node("segment_node.mjs", {"settings": settings, "calls": calls})
    assert said["errors"] == []
    found = {name_of(each.raw): each for each in await gateway.landed(source)}
    ids = {name_of(event): event["messageId"] for event in said["delivered"]}
    assert len(found) == len(ids) == len(SEGMENT)
    for method, call, name in SEGMENT:
        each = found[name]
        library = {"name": "@segment/analytics-node", "version": version_of("@segment/analytics-node")}
        expected = {
            **call,
            "type": method,
            "messageId": ids[name],
            "timestamp": WHEN,
            "context": {**CONTEXT, "library": library},
        }
        assert differences(expected, each.raw) == []
        assert before < datetime.fromisoformat(each.raw["sentAt"]) <= datetime.now(UTC)
        assert each.event["type"] == method
        assert abs(each.event["time"] - WHEN.timestamp() * 1000) < 5000
    posts = front.posts()
    assert {hit.path for hit in posts} == {"/v1/batch"}
    assert {hit.basic for hit in posts} == {f"{source.key}:"}
    assert {hit.document["writeKey"] for hit in posts} == {source.key}
    assert len(posts) == (len(SEGMENT) if flush_at == 1 else 1)


async def test_what_failed_in_segments_node_client_is_sent_again_and_counts_once(
    gateway: Any, front: Front, modules: Path
) -> None:
    source = await gateway.source("rest")
    front.faults.extend([Fault(503), Fault(429, 1), LOST, Fault(503, 1)])
    calls = [["track", {"userId": "u-1", "event": "Counted", "properties": {"n": n}}] for n in range(100)]
    settings = {"writeKey": source.key, "host": front.url, "flushAt": 20, "maxRetries": 5}
    said = await run_node("segment_node.mjs", {"settings": settings, "calls": calls})
    assert said["errors"] == []
    assert len(said["delivered"]) == 100
    found = await gateway.landed(source)
    ids = {each.raw["messageId"]: each.raw["properties"]["n"] for each in found}
    assert sorted(ids.values()) == list(range(100))
    # The batch whose answer was lost is there twice, under the same ids, by which it counts once.
    assert len(found) == 120
    posts = front.posts()
    assert sorted(hit.status for hit in posts) == [0, 200, 200, 200, 200, 200, 429, 503, 503]
    # It says how often it has tried, and the gateway's CORS rules let a browser say it too.
    assert {hit.headers.get("x-retry-count") for hit in posts} >= {None, "1"}


#: Method of Jitsu's client, its arguments, what it is called here, and what the record has.
JITSU: list[tuple[list[Any], str, dict[str, Any]]] = [
    (["identify", "u-1", {"email": "ada@example.org", **RICH}], "identify", {"traits": {"email": "ada@example.org"}}),
    (["track", "Product Viewed", RICH], "Product Viewed", {"properties": RICH, "userId": "u-1"}),
    (["page", {"name": "Home", "url": "https://shop.example/x"}], "page", {"userId": "u-1"}),
    (["group", "g-1", {"plan": "gold"}], "group", {"groupId": "g-1", "traits": {"plan": "gold"}}),
]


@pytest.mark.parametrize("server", [True, False], ids=["s2s", "client"])
async def test_every_call_of_jitsus_client(gateway: Any, front: Front, modules: Path, server: bool) -> None:
    source = await gateway.source("rest")
    # Jitsu wants a key of two parts: ours is the first.
    settings = {"writeKey": f"{source.key}:any", "host": front.url, "s2s": server}
    before = datetime.now(UTC)
    said = await run_node("jitsu_node.mjs", {"settings": settings, "calls": [call for call, _, _ in JITSU]})
    assert said["errors"] == []
    found = {name_of(each.raw): each for each in await gateway.landed(source)}
    assert len(found) == len(JITSU)
    for call, name, expected in JITSU:
        each = found[name]
        library = {"name": "@jitsu/js", "version": version_of("@jitsu/js")}
        assert differences({**expected, "type": call[0], "context": {"library": library}}, each.raw) == []
        assert before.timestamp() * 1000 - 1000 < each.event["time"] <= datetime.now(UTC).timestamp() * 1000
    prefix = "/api/s/s2s" if server else "/api/s"
    posts = front.posts()
    assert [hit.path for hit in posts] == [f"{prefix}/{call[0]}" for call, _, _ in JITSU]
    assert {hit.headers["x-write-key"] for hit in posts} == {f"{source.key}:any"}
    assert {hit.document["writeKey"] for hit in posts} == {f"{source.key}:***"}
    ids = [hit.document["messageId"] for hit in posts]
    assert sorted(ids) == sorted(each.raw["messageId"] for each in found.values())


async def test_jitsus_client_tells_of_a_refusal_and_does_not_repeat(gateway: Any, front: Front, modules: Path) -> None:
    """It has no retries: what the gateway can't take now is lost unless the caller minds the error."""
    source = await gateway.source("rest")
    front.faults.extend([Fault(503, 1), Fault(429, 1)])
    settings = {"writeKey": f"{source.key}:any", "host": front.url, "s2s": True}
    calls = [["identify", "u-1", {}], ["track", "First", {}], ["track", "Second", {}]]
    said = await run_node("jitsu_node.mjs", {"settings": settings, "calls": calls})
    first, second = said["errors"]
    assert "503" in first
    assert "429" in second
