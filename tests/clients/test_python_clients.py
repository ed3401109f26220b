"""Segment's and RudderStack's Python clients, as they are, through the gateway to Kafka."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest
from client_payloads import CONTEXT, RICH, WHEN
from faulty_front import LOST, Fault, Front
from landed_events import differences
from rudderstack.analytics.client import Client as RudderClient
from segment.analytics.client import Client as SegmentClient

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]


#: Method, its arguments, and what the record on the raw topic has.
CALLS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("identify", {"user_id": "u-1", "traits": {"email": "Ada@Example.org", **RICH}}, {"userId": "u-1"}),
    ("track", {"user_id": "u-1", "event": "Product Viewed", "properties": RICH}, {"properties": RICH}),
    ("track", {"anonymous_id": "a-1", "event": "Bare"}, {"anonymousId": "a-1", "event": "Bare"}),
    ("page", {"user_id": "u-1", "category": "Docs", "name": "Home", "properties": RICH}, {"name": "Home"}),
    ("screen", {"user_id": "u-1", "category": "App", "name": "Start", "properties": RICH}, {"name": "Start"}),
    ("group", {"user_id": "u-1", "group_id": "g-1", "traits": {"plan": "gold"}}, {"groupId": "g-1"}),
    ("alias", {"previous_id": "a-1", "user_id": "u-1"}, {"previousId": "a-1", "userId": "u-1"}),
]
NAMES = {
    "identify": "Identified",
    "page": "Page Viewed",
    "screen": "Screen Viewed",
    "group": "Grouped",
    "alias": "Aliased",
}
PACKAGES = {"segment": "segment-analytics-python", "rudder": "rudder-sdk-python"}
CLIENTS = {"segment": SegmentClient, "rudder": RudderClient}


def options(client: str, front: Front, errors: list[Any], **more: Any) -> dict[str, Any]:
    # Long enough for all calls to be one batch, on a busy machine too; the end of the client does not wait for more.
    return {"host": front.url, "on_error": lambda *why: errors.append(why), "upload_interval": 2.0, **more}


@pytest.mark.parametrize("mode", ["batch", "batch-gzip", "single", "single-gzip"])
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_call_lands_as_it_was_made(gateway: Any, front: Front, client: str, mode: str) -> None:
    source = await gateway.source("rest")
    errors: list[Any] = []
    given = {"sync_mode": mode.startswith("single"), "gzip": mode.endswith("gzip")}
    made: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def run() -> None:
        sender = CLIENTS[client](source.key, **options(client, front, errors, **given))
        for method, arguments, expected in CALLS:
            ok, message = getattr(sender, method)(**arguments, timestamp=WHEN, context=dict(CONTEXT))
            assert ok
            made.append((message, expected))
        if not given["sync_mode"]:
            sender.shutdown()

    before = datetime.now(UTC) - timedelta(seconds=1)
    await asyncio.to_thread(run)
    assert errors == []
    found = {each.raw["messageId"]: each for each in await gateway.landed(source)}
    assert len(found) == len(CALLS)
    for message, expected in made:
        each = found[message["messageId"]]
        assert differences({**message, **expected, "context": CONTEXT, "timestamp": WHEN}, each.raw) == []
        library = {"name": "analytics-python", "version": version(PACKAGES[client])}
        assert differences(library, each.raw["context"]["library"]) == []
        assert before < datetime.fromisoformat(each.raw["sentAt"]) <= datetime.now(UTC)
        event = each.event
        assert (event["type"], event["name"]) == (message["type"], NAMES.get(message["type"], message.get("event")))
        assert (event.get("user_id"), event.get("anonymous_id")) == (message.get("userId"), message.get("anonymousId"))
        # The client's own clock is ours here, so the correction is no more than the time on the way.
        assert abs(event["time"] - WHEN.timestamp() * 1000) < 5000
    identified = next(each.event for each in found.values() if each.raw["type"] == "identify")
    assert identified["email"] == "Ada@Example.org"
    # What it says on the wire.
    posts = front.posts()
    assert {hit.path for hit in posts} == {"/v1/batch"}
    assert {hit.basic for hit in posts} == {f"{source.key}:"}
    assert {hit.body[:2] == b"\x1f\x8b" for hit in posts} == {given["gzip"]}
    assert len(posts) == (len(CALLS) if given["sync_mode"] else 1)


FAULTS = {
    "503": Fault(503),
    "503 with Retry-After": Fault(503, 1),
    "429 with Retry-After": Fault(429, 1),
    "answer lost": LOST,
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_failed_is_sent_again_and_counts_once(
    gateway: Any, front: Front, caplog: pytest.LogCaptureFixture, client: str, fault: str
) -> None:
    caplog.set_level(logging.CRITICAL)
    source = await gateway.source("rest")
    errors: list[Any] = []
    front.faults.append(FAULTS[fault])
    sent: list[str] = []

    def run() -> None:
        sender = CLIENTS[client](source.key, **options(client, front, errors, upload_size=20, gzip=True))
        for n in range(50):
            _, message = sender.track("u-1", "Counted", {"n": n})
            sent.append(message["messageId"])
        sender.shutdown()

    await asyncio.to_thread(run)
    assert errors == []
    found = [each.raw["messageId"] for each in await gateway.landed(source)]
    assert set(found) == set(sent)
    # An answer that was lost: the batch is there twice, under the same ids, by which it counts once.
    assert len(found) == len(sent) + (20 if fault == "answer lost" else 0)
    posts = front.posts()
    assert [hit.status for hit in posts] == [getattr(FAULTS[fault], "status", 0), 200, 200, 200]
    # Segment's client puts what must wait at the end of its queue, so the batches may be others then.
    first = {event["messageId"] for event in posts[0].events}
    again = [event["messageId"] for hit in posts[1:] for event in hit.events]
    assert sorted(again) == sorted(sent)
    assert first < set(again)


async def test_a_refusal_is_heard_and_not_repeated(
    gateway: Any, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    for client, code in (("segment", "unknown_source"), ("rudder", "unknown_source")):
        errors: list[Any] = []

        def run(client: str = client, errors: list[Any] = errors) -> None:
            sender = CLIENTS[client](f"{gateway.partner}.nobody", **options(client, front, errors))
            sender.track("u", "X")
            sender.shutdown()

        await asyncio.to_thread(run)
        [(error, items)] = errors
        assert (error.status, error.code, len(items)) == (401, code, 1)
    assert len(front.hits) == 2
