"""What comes from outside against the delivery engine: hostile records, hostile answers, code that fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from eventually import eventually
from sinks_world import LANES, SECRET, World

from pipeline.models.control import Integration
from pipeline.sinks import registry
from pipeline.sinks.offsets import MAX_SPAN
from pipeline.sinks.webhook import WebhookSink
from pipeline.stream.transaction import partition_for

pytestmark = pytest.mark.kafka


async def put(world: World, *values: tuple[str, bytes]) -> None:
    """Records as they are, (customer, value)."""
    await world.make_topics()
    producer = world.kafka.producer(max_request_size=2_090_000)
    await producer.start()
    try:
        for customer, value in values:
            await world.produce(producer, "hook", customer, value)
    finally:
        await producer.stop()


@asynccontextmanager
async def raw_server(serve: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """An endpoint that reads a request and then writes whatever ``serve`` does."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def changed(world: World, **fields: Any) -> bytes:
    return json.dumps(world.record("ann", 0) | fields).encode()


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("unreadable", {"id": "x" * 1_200_000}),
    ("unreadable", {"name": "x" * 1_500_000}),
    ("unreadable", {"attempt": -7}),
    ("unreadable", {"attempt": 2**64 - 1}),
    ("unreadable", {"rule": "../../etc"}),
    ("unreadable", {"event": []}),
    ("unreadable", {"event": {"properties": "\ud800"}}),
    ("unreadable", {"more": 1}),
    ("invalid", {"id": "a\r\nx-injected: 1"}),
    ("invalid", {"event": {"time": "yesterday"}}),
    ("invalid", {"event": {"time": 10**400}}),
    ("invalid", {"event": {"properties": {"n": 2**70}}}),
    ("invalid", {"created": 2**70, "event": {}}),
]


async def test_hostile_records_are_kept_aside_and_the_next_one_goes(world: World) -> None:
    engine = await world.engine()
    last = json.dumps(world.record("ann", 1)).encode()
    await put(world, *(("ann", changed(world, **fields)) for _, fields in HOSTILE), ("ann", last))
    kept = await eventually(lambda: _many(world, len(HOSTILE)))
    lane = partition_for(b"ann", LANES)
    reasons = {entry["place"]: entry["reason"] for entry in kept}
    places = [f"dispatch.{world.partner}.hook/{lane}/{offset}" for offset in range(len(HOSTILE))]
    assert [reasons.get(place) for place in places] == [reason for reason, _ in HOSTILE]
    await eventually(lambda: [hit.number for hit in world.receiver.hits] == [1])
    assert not engine.failure.done()


async def test_the_largest_records_are_kept_too(world: World) -> None:
    """A record that just passes, and one that does not, both failing for good: each fits the undeliverable topic."""
    world.receiver.answer = lambda body: web.Response(status=422)
    engine = await world.engine()
    big, long = "ä" * 940_000, "k" * 900_000
    await put(
        world,
        ("ann", json.dumps(world.record("ann", 0) | {"event": {"x": big}}, ensure_ascii=False).encode()),
        ("ann", b"\xff" * 2_000_000),
        (long, b"\xff" * 1_100_000),
    )
    kept = await eventually(lambda: _many(world, 3))
    assert sorted(entry["reason"] for entry in kept) == ["invalid", "unreadable", "unreadable"]
    assert not engine.failure.done()


async def _many(world: World, count: int) -> list[dict[str, Any]] | None:
    found = await world.undeliverable()
    return found if len(found) == count else None


async def test_an_unreadable_record_behind_a_slow_request_in_a_full_window_ends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sinks.lane.WINDOW", 100)
    released = asyncio.Event()

    async def answer(body: dict[str, Any]) -> web.Response:
        if body["data"]["customer"]["id"] == "ann":
            await released.wait()
        return web.Response()

    world.receiver.answer = answer
    world.put(settings={"url": world.receiver.url, "timeout_s": 30})
    lane = partition_for(b"ann", LANES)
    other = next(name for name in map(str, range(99)) if partition_for(name.encode(), LANES) == lane)
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: world.receiver.begun == 1)
    await put(world, ("ann", b"garbage"))
    await world.send(["ann"] * 200 + [other])
    await eventually(lambda: other in world.order(), 20)
    released.set()
    await eventually(lambda: len(world.order().get("ann", ())) == 201, 60)
    assert world.order() == world.expected()
    assert [entry["reason"] for entry in await world.undeliverable()] == ["unreadable"]
    assert not engine.failure.done()


async def test_what_is_read_while_others_are_moved_is_moved_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would keep a place in the window of all customers until the first record is due."""
    monkeypatch.setattr("pipeline.sinks.lane.WINDOW", 2)
    world.settings.retry_schedule = "1h"
    world.receiver.answer = lambda body: web.Response(status=503)
    engine = await world.engine()
    lane = partition_for(b"ann", LANES)
    other = next(name for name in map(str, range(99)) if partition_for(name.encode(), LANES) == lane)
    await world.send(["ann", other])
    await eventually(lambda: world.receiver.hits)
    found = engine._outlets[world.partner, "hook"].lanes[lane]._intakes
    await eventually(
        lambda: "1h" in found and found["1h"].loaded == 2, what="they fill the window of their retry topic"
    )
    send, holding, release = engine._producer.send, asyncio.Event(), asyncio.Event()

    async def held(topic: str, *args: Any, **kwargs: Any) -> Any:
        if topic.endswith(".retry.1h"):
            holding.set()
            await release.wait()
        return await send(topic, *args, **kwargs)

    engine._producer.send = held
    await world.send(["ann"])
    await holding.wait()
    await world.send(["ann"])
    await eventually(lambda: found[None].loaded == 2)
    release.set()
    await eventually(lambda: found[None].loaded == 0, 10)


async def test_a_lane_whose_span_is_used_up_goes_on_after_a_restart(world: World) -> None:
    """One hanging request, and others finish as many records after it as a lane may read ahead."""

    async def answer(body: dict[str, Any]) -> web.Response:
        if body["data"]["customer"]["id"] == "ann":
            await asyncio.Event().wait()
        return web.Response()

    world.receiver.answer = answer
    world.put(settings={"url": world.receiver.url, "timeout_s": 60})
    lane = partition_for(b"ann", LANES)
    others = [name for name in map(str, range(400)) if partition_for(name.encode(), LANES) == lane][:100]
    await world.make_topics()
    await world.send(["ann"])
    first = await world.engine()
    await eventually(lambda: world.receiver.begun == 1)
    # What is not to be sent is finished fastest: records that cannot be read.
    topic, producer = f"dispatch.{world.partner}.hook", world.kafka.producer()
    await producer.start()
    for number in range(MAX_SPAN + 500):
        await producer.send(topic, b"-", others[number % 100].encode(), lane)
    await producer.stop()
    intake = first._outlets[world.partner, "hook"].lanes[lane]._intakes[None]
    await eventually(lambda: intake.tracker.span >= MAX_SPAN and intake.loaded == 1, 60)
    await first.stop(0)
    world.engines.remove(first)
    world.receiver.answer = lambda body: web.Response()
    await world.engine()
    await eventually(lambda: world.order() == {"ann": [0]}, 20)


async def test_a_drip_feed_is_cut_off_when_the_time_is_up(world: World) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw_server(drip) as url:
        world.put(settings={"url": url, "timeout_s": 0.5, "retry_schedule": ""})
        await world.engine()
        await world.send(["ann"])
        (kept,) = await eventually(world.undeliverable)
        (entry,) = await world.deliveries()
    assert kept["reason"] == "exhausted"
    assert entry["outcome"] == "transient"
    assert 450 <= entry["duration_ms"] < 5_000


ANSWERS = {
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bad status": b"HTTP/1.1 banana split\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_is_no_http_is_tried_again_and_shows_no_credential(
    world: World, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWERS[answer])
        await writer.drain()

    caplog.set_level(logging.DEBUG, "pipeline")
    async with raw_server(serve) as url:
        world.put(settings={"url": f"{url}/h?token=hush-hush", "timeout_s": 5, "retry_schedule": "100ms"})
        engine = await world.engine()
        await world.send(["ann"])
        (kept,) = await eventually(world.undeliverable)
        log = await world.deliveries()
    assert (kept["reason"], [entry["outcome"] for entry in log]) == ("exhausted", ["transient"] * 2)
    assert not engine.failure.done()
    signatures = [entry["request"]["headers"]["webhook-signature"] for entry in log]
    assert signatures == ["***"] * 2
    for shown in (json.dumps(log), json.dumps(kept), caplog.text):
        assert "hush-hush" not in shown
        assert "v1," not in shown
        assert SECRET.removeprefix("whsec_") not in shown


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "shop..example", "127.0.0.1:99999"])
async def test_an_address_that_is_none_pauses_and_keeps_the_records(world: World, host: str) -> None:
    world.put(settings={"url": f"http://{host}/"})
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: engine.paused.get((world.partner, "hook")))
    assert await world.undeliverable() == []
    world.put()
    await eventually(lambda: world.order() == {"ann": [0]})


async def test_a_secret_that_is_on_its_way_is_waited_for_ever_longer(world: World) -> None:
    world.put(secret="late")
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: engine.paused.get((world.partner, "hook")))
    gate = engine._outlets[world.partner, "hook"].gate
    await eventually(lambda: gate.closings == 2, 10)
    assert gate.pause is not None
    assert gate.pause.until - gate.pause.since > 2.5, "1 s, then 2 s"
    world.secrets["late"] = SECRET
    await eventually(lambda: world.order() == {"ann": [0]} and engine.paused == {}, 10)


async def test_an_answer_to_how_it_was_before_an_edit_pauses_nothing(world: World) -> None:
    edited = asyncio.Event()

    async def answer(body: dict[str, Any]) -> web.Response:
        if world.receiver.begun == 1:
            await edited.wait()
            return web.Response(status=401)
        return web.Response()

    world.receiver.answer = answer
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: world.receiver.begun == 1)
    outlet, made = engine._outlets[world.partner, "hook"], world.put()
    await eventually(lambda: outlet._integration is made)
    edited.set()
    await eventually(lambda: world.order() == {"ann": [0]}, 10)
    assert [hit.status for hit in world.receiver.hits] == [401, 200]


async def test_backoff_of_a_tool_that_never_recovers_stays_in_its_bounds(world: World) -> None:
    engine = await world.engine()
    outlet = await eventually(lambda: engine._outlets.get((world.partner, "hook")))
    outlet.gate.closings = 5_000
    assert outlet._backoff(1.0, 60.0) == 60.0


async def test_retry_after_nothing_is_no_invitation_to_hammer(world: World) -> None:
    left = [2]

    def answer(body: dict[str, Any]) -> web.Response:
        left[0] -= 1
        return web.Response(status=429, headers={"Retry-After": "0"}) if left[0] >= 0 else web.Response()

    world.receiver.answer = answer
    await world.engine()
    await world.send(["ann"])
    await eventually(lambda: world.order() == {"ann": [0]})
    first, second, _ = world.receiver.hits
    assert second.at - first.at > 0.9


class _Broken(WebhookSink):
    """A tool with a fault in its code, for one customer."""

    kind = "broken"

    def request(self, dispatch: Any, *rest: Any) -> Any:
        if dispatch.customer["id"] == "ann":
            raise AttributeError("a slip")
        return super().request(dispatch, *rest)


async def test_code_of_a_tool_that_fails_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SINKS, "broken", _Broken())
    made: Integration = world.put(kind="broken")
    assert made.kind == "broken"
    engine = await world.engine()
    await world.send(["ann", "bob"])
    await eventually(lambda: world.order() == {"bob": [1]})
    (kept,) = await eventually(world.undeliverable)
    assert kept["reason"] == "exhausted"
    assert "a slip" in kept["detail"]
    assert not engine.failure.done()


async def test_a_tool_that_hangs_holds_up_no_other_tool(world: World) -> None:
    async def hang(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with raw_server(hang) as url:
        world.put("stuck", settings={"url": url, "timeout_s": 60, "max_in_flight": 1})
        await world.engine()
        await world.send([f"c{n}" for n in range(50)], "stuck")
        await world.send([f"c{n}" for n in range(50)])
        await eventually(lambda: len(world.order()) == 50, 15)
        assert {hit.number for hit in world.receiver.hits} == set(range(50, 100))
        for engine in world.engines:
            await engine.stop(0)
        world.engines.clear()


async def test_one_attempt_at_a_time_per_customer_from_first_to_last(world: World) -> None:
    """The receiver's journal: no attempt of a record lies between the first and the last of an earlier one."""
    fails = {n: n % 3 for n in range(200)}

    def answer(body: dict[str, Any]) -> web.Response:
        number = body["data"]["event"]["properties"]["n"]
        fails[number] -= 1
        return web.Response(status=503 if fails[number] >= 0 else 200)

    world.receiver.answer = answer
    await world.engine()
    await world.send([f"c{n % 40}" for n in range(200)])
    await eventually(lambda: len(world.receiver.taken()) == 200, 60)
    journal: dict[str, list[int]] = {}
    for hit in world.receiver.hits:
        journal.setdefault(hit.customer, []).append(hit.number)
    for customer, numbers in journal.items():
        wanted = [n for n in world.expected()[customer] for _ in range(n % 3 + 1)]
        assert numbers == wanted, customer
