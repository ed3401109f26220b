"""What keeps a tool and us from hurting each other: breaker, rate limits, parking, switching off, batches."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import orjson
import pytest
from aiohttp import web
from eventually import eventually
from sinks_world import LANES, World
from test_sink_engine import all_taken

from pipeline.models.delivery import Closed, SinkState
from pipeline.sinks import breaker, engine, outlet
from pipeline.sinks.breaker import Breaker
from pipeline.sinks.engine import DeliveryEngine
from pipeline.sinks.limiter import Limiter
from pipeline.sinks.state import Vitals, failing_since

# -- pure ----------------------------------------------------------------------------------------------------


def test_a_breaker_wants_many_failures_in_a_row_over_some_time() -> None:
    made = Breaker(3)
    assert [made.fail(at) for at in (0.0, 1.0, 2.0, 9.9, 10.0)] == [False, False, False, False, True]
    made.succeed()
    assert [made.fail(at) for at in (20.0, 31.0, 32.0)] == [False, False, True]
    assert not any(Breaker(0).fail(at) for at in range(1000))


async def test_a_limiter_gives_a_burst_and_then_a_steady_rate_in_order() -> None:
    made, began = Limiter(50.0, 5), time.monotonic()
    turns: list[tuple[int, float]] = []

    async def take(number: int) -> None:
        await made.take()
        turns.append((number, time.monotonic() - began))

    await asyncio.gather(*(take(number) for number in range(25)))
    assert [number for number, _ in turns] == list(range(25))
    # Five at once, then twenty at 50 a second: not sooner, whatever the machine does.
    assert turns[24][1] >= 0.4


async def test_without_a_rate_nothing_waits() -> None:
    made = Limiter(None)
    await asyncio.wait_for(asyncio.gather(*(made.take() for _ in range(1000))), 5)


def test_rows_are_written_when_something_changes_and_rarely_else() -> None:
    row = Vitals("acme", "crm", 0)
    assert row.tried(True, 1)
    assert not row.tried(True, 30_000)
    assert row.tried(True, 60_001)
    assert row.tried(False, 60_002)
    assert not row.tried(False, 99_000)
    assert (row.row.failing_since, row.row.ok_at) == (60_002, 60_001)
    assert row.tried(True, 99_001)
    assert row.row.failing_since is None
    closed = Closed(reason="no", since=1, until=2, alert=True)
    assert [row.closed(each, 3) for each in (closed, closed, None, None)] == [True, False, True, False]


def test_a_tool_fails_since_the_last_thing_that_any_lane_got_through() -> None:
    def row(lane: int, failing: int | None, good: int | None) -> SinkState:
        return SinkState(partner="acme", integration="crm", lane=lane, failing_since=failing, ok_at=good, at=0)

    assert failing_since([]) is None
    assert failing_since([row(0, None, 5)]) is None
    assert failing_since([row(0, 10, 5), row(1, 20, None)]) == 10
    assert failing_since([row(0, 10, 5), row(1, None, 15)]) == 15


# -- the engine, on a real Kafka -----------------------------------------------------------------------------

kafka = pytest.mark.kafka


@pytest.mark.faults
@kafka
async def test_an_endpoint_that_keeps_failing_is_asked_seldom_and_then_told_all_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(outlet, "_BREAKER_SECONDS", (0.5, 0.5))
    world.receiver.answer = lambda body: web.Response(status=500)
    settings = {"url": world.receiver.url, "timeout_s": 5, "breaker": 3, "retry_schedule": ",".join(["100ms"] * 100)}
    world.put(settings=settings)
    running = await world.engine()
    await world.send([f"c{n % 10}" for n in range(50)])
    key = (world.partner, "hook")
    await eventually(lambda: key in running.paused and "keeps failing" in running.paused[key].reason, 30)
    asked = world.receiver.begun
    began = time.monotonic()
    await asyncio.sleep(2)  # an hour of failures, shortened: what is counted is how often it is asked in it
    probes = (time.monotonic() - began) / 0.5 + 1
    assert world.receiver.begun - asked <= probes
    world.receiver.answer = lambda body: web.Response()
    await all_taken(world, 60)
    assert world.order() == world.expected()


@pytest.mark.faults
@kafka
async def test_two_processes_together_keep_the_rate_and_lose_nothing(world: World) -> None:
    world.put(settings={"url": world.receiver.url, "timeout_s": 5, "rate": 20, "burst": 2})
    both = []
    for lane in range(LANES):
        made = DeliveryEngine(world.kafka, world, world.secrets, world.settings, group=f"{world.partner}-offsets")
        await made.start()
        world.engines.append(made)
        await made.assign({lane})
        both.append(made)
    await world.send([f"c{n}" for n in range(60)])
    await all_taken(world, 60)
    first, last = world.receiver.hits[0].at, world.receiver.hits[-1].at
    # 60 requests at 20 a second, two of them at once; a machine that is slow makes it longer, never shorter.
    assert last - first >= 2.5
    assert max(Counter(hit.id for hit in world.receiver.hits).values()) == 1


@pytest.mark.faults
@kafka
@pytest.mark.parametrize(("policy", "times"), [("park", 1), ("retry", 2)])
async def test_what_may_have_arrived_is_sent_again_or_kept_as_the_integration_wants(
    world: World, policy: str, times: int
) -> None:
    """It takes the request, and closes in the middle of the answer."""
    current: asyncio.Queue[web.Request] = asyncio.Queue()
    handle = world.receiver._handle

    async def noting(request: web.Request) -> web.StreamResponse:
        await current.put(request)
        return await handle(request)

    world.receiver._handle = noting  # type: ignore[method-assign]
    async with world.receiver.running():

        async def answer(body: dict[str, Any]) -> web.StreamResponse:
            request = await current.get()
            if world.receiver.begun > 1:
                return web.Response()
            response = web.StreamResponse(headers={"content-length": "100"})
            await response.prepare(request)
            await response.write(b"half")
            assert request.transport is not None
            request.transport.close()
            return response

        world.receiver.answer = answer
        world.put(settings={"url": world.receiver.url, "timeout_s": 5, "when_unsure": policy})
        await world.engine()
        await world.send(["ann"])
        if policy == "retry":
            await eventually(lambda: world.receiver.begun == times, 30)
        else:

            async def kept() -> bool:
                return len(await world.read(f"dispatch.{world.partner}.hook.undeliverable")) == 1

            await eventually(kept, 30)
            assert world.receiver.begun == 1


@pytest.mark.faults
@kafka
async def test_a_tool_that_does_nothing_but_fail_is_switched_off_with_its_retries_and_its_owner_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_WATCH_SECONDS", 0.1)
    world.receiver.answer = lambda body: web.Response(status=200 if body["type"] == "Integration Disabled" else 500)
    world.put("owner")
    settings = {"url": world.receiver.url, "timeout_s": 5, "retry_schedule": ",".join(["200ms"] * 200)}
    world.put(settings=settings | {"disable_after": "2s", "notify": "owner", "breaker": 0})
    await world.make_topics("owner")
    running = await world.engine()
    await world.send(["ann", "bob"])
    await eventually(lambda: not world.state.integrations[world.partner, "hook"].enabled, 30)

    def told() -> list[Any]:
        bodies = [orjson.loads(hit.body) for hit in world.receiver.taken()]
        return [each for each in bodies if each["type"] == "Integration Disabled"]

    await eventually(lambda: len(told()) == 1, 30)
    assert told()[0]["data"]["event"]["properties"]["integration"] == "hook"
    rows = running.board.of(world.partner, "hook")
    assert failing_since(rows.values()) is not None
    begun = world.receiver.begun
    await asyncio.sleep(1)  # five retries would have come in this time
    assert world.receiver.begun <= begun + 1
    # Switched on again, what was kept is told.
    world.receiver.answer = lambda body: web.Response()
    world.put(settings=settings)
    await eventually(lambda: len({hit.number for hit in world.receiver.taken() if hit.number >= 0}) == 2, 30)


@pytest.mark.faults
@kafka
async def test_many_records_go_in_one_request_each_with_its_own_answer_and_in_order(world: World) -> None:
    """As Braze has it: 75 in a request, and what it does not take of them by place."""
    batches: list[list[str]] = []

    def answer(body: dict[str, Any]) -> web.Response:
        names = [event["external_id"] for event in body["events"]]
        batches.append(names)
        if "poison" in names and len(names) > 1:
            return web.json_response({"message": "one of these is wrong"}, status=400)
        if names == ["poison"]:
            return web.json_response({"message": "this is wrong"}, status=400)
        wrong = [{"type": "bad", "input_array": "events", "index": at} for at, n in enumerate(names) if n == "bad"]
        return web.json_response({"message": "success", "errors": wrong}, status=201)

    world.receiver.answer = answer
    address = world.receiver.url.removesuffix("/hook")
    world.secrets["key"] = "braze-key"
    world.put(kind="braze", settings={"address": address, "linger_ms": 200}, secret="key")
    await world.engine()
    customers = [f"c{n}" for n in range(40)] + ["bad", "poison"]
    for customer in customers:
        who = {"id": customer, "user_id": customer, "traits": {}}
        await world.send([customer], customer=who)

    async def kept() -> bool:
        found = await world.read(f"dispatch.{world.partner}.hook.undeliverable")
        return sorted(each["dispatch"]["customer"]["id"] for each in found) == ["bad", "poison"]

    await eventually(kept, 60)
    taken = [name for batch in batches if "poison" not in batch for name in batch if name != "bad"]
    await eventually(lambda: {n for b in batches if "poison" not in b for n in b} >= set(customers[:40]), 60)
    taken = [name for batch in batches if "poison" not in batch for name in batch if name != "bad"]
    assert sorted(taken) == sorted(customers[:40])
    assert len(batches) < 40


@pytest.mark.faults
@kafka
async def test_a_test_goes_in_a_request_of_its_own(world: World) -> None:
    """What marks a test marks all of its request at some tools: no live record may share one."""
    batches: list[list[str]] = []

    def answer(body: dict[str, Any]) -> web.Response:
        batches.append([event["external_id"] for event in body["events"]])
        return web.json_response({"message": "success"}, status=201)

    world.receiver.answer = answer
    world.secrets["key"] = "braze-key"
    address = world.receiver.url.removesuffix("/hook")
    world.put(kind="braze", settings={"address": address, "linger_ms": 500}, secret="key")
    await world.engine()
    for number in range(6):
        customer = f"c{number}"
        who = {"id": customer, "user_id": customer, "traits": {}}
        await world.send([customer], customer=who, test=number == 3)
    await eventually(lambda: sum(map(len, batches)) == 6, 30)
    assert ["c3"] in batches
