"""The delivery engine on a real Kafka and real HTTP: order, retries, crashes, pauses, limits."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from typing import Any

import pytest
from aiohttp import web
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError
from eventually import eventually
from sinks_world import LANES, SECRET, World, crash
from standardwebhooks import Webhook

from pipeline.sinks.lane import WINDOW
from pipeline.sinks.record import Place, headers_of
from pipeline.stream.kafka import Kafka
from pipeline.stream.transaction import partition_for
from pipeline.topics.apply import ensure
from pipeline.topics.spec import load, of_integration

pytestmark = pytest.mark.kafka


def failing(times: dict[str, int], status: int = 503) -> Any:
    """Fails each event of a customer the given number of times."""
    left: dict[int, int] = {}

    def answer(body: dict[str, Any]) -> web.Response:
        number = body["data"]["event"]["properties"]["n"]
        left.setdefault(number, times.get(body["data"]["customer"]["id"], 0))
        if left[number]:
            left[number] -= 1
            return web.Response(status=status)
        return web.Response()

    return answer


async def all_taken(world: World, timeout: float = 30) -> None:
    await eventually(lambda: len({h.number for h in world.receiver.taken()}) == len(world.sent), timeout)


async def test_records_arrive_signed_in_order_and_logged(world: World) -> None:
    await world.engine()
    await world.send(["ann", "bob"] * 5)
    await all_taken(world)
    assert world.order() == world.expected()
    for hit in world.receiver.hits:
        said = Webhook(SECRET).verify(hit.body, hit.headers)
        assert said["type"] == "Wallet Coins Rewarded"
        assert said["timestamp"] == "2023-11-14T22:13:20.000Z"
        assert set(said["data"]) == {"customer", "event", "rule", "test"}
        assert hit.id == f"{world.partner}-{hit.number}"
    log = await world.deliveries()
    assert Counter(entry["outcome"] for entry in log) == {"ok": 10}
    assert {entry["attempt"] for entry in log} == {1}
    assert {entry["request"]["headers"]["webhook-signature"] for entry in log} == {"***"}
    assert SECRET.removeprefix("whsec_") not in json.dumps(log)


async def test_a_failure_holds_back_its_customer_and_nobody_else(world: World) -> None:
    world.receiver.answer = failing({"ann": 2})
    await world.engine()
    await world.send(["ann", "ann", "bob", "bob"])
    await eventually(lambda: world.order().get("bob") == [2, 3])
    assert "ann" not in world.order()
    await all_taken(world)
    assert world.order() == world.expected()
    assert await world.undeliverable() == []


async def test_retries_come_when_they_are_due_with_the_same_id(world: World) -> None:
    world.receiver.answer = failing({"ann": 2})
    await world.engine()
    await world.send(["ann"])
    await all_taken(world)
    first, second, third = world.receiver.hits
    assert first.id == second.id == third.id
    assert second.at - first.at >= 0.8 * 0.2
    assert third.at - second.at >= 0.8 * 0.4
    assert [entry["attempt"] for entry in await world.deliveries()] == [1, 2, 3]


async def test_when_the_schedule_ends_the_record_is_kept_and_the_next_goes(world: World) -> None:
    world.receiver.answer = lambda body: web.Response(status=500 if body["data"]["event"]["id"] == "m0" else 200)
    await world.engine()
    await world.send(["ann", "ann"])
    await eventually(lambda: world.order() == {"ann": [1]})
    (kept,) = await world.undeliverable()
    assert kept["reason"] == "exhausted"
    assert kept["dispatch"]["attempt"] == 3
    assert kept["dispatch"]["event"]["properties"] == {"n": 0}
    assert [hit.number for hit in world.receiver.hits] == [0, 0, 0, 1]


async def test_a_record_that_the_tool_refuses_is_kept_without_a_retry(world: World) -> None:
    world.receiver.answer = lambda body: web.Response(status=422 if body["data"]["event"]["id"] == "m0" else 200)
    await world.engine()
    await world.send(["ann", "ann"])
    await eventually(lambda: world.order() == {"ann": [1]})
    (kept,) = await world.undeliverable()
    assert (kept["reason"], len(world.receiver.hits)) == ("invalid", 2)


async def test_unreadable_records_are_kept_and_hold_up_nothing(world: World) -> None:
    await world.make_topics()
    producer = world.kafka.producer()
    await producer.start()
    other = json.dumps(world.record("ann", 0) | {"integration": "else"}).encode()
    deep = b'{"id":' + b"[" * 5000 + b"]" * 5000 + b"}"
    for value in (b"\xff\x00", b"", b"[]", b'{"id":1}', deep, other):
        await world.produce(producer, "hook", "ann", value)
    await producer.stop()
    await world.engine()
    await world.send(["ann"])
    await all_taken(world)
    kept = await eventually(world.undeliverable)
    assert [entry["reason"] for entry in kept] == ["unreadable"] * 6
    assert all(entry["dispatch"] is None and entry["place"] for entry in kept)


async def test_a_hanging_endpoint_holds_up_one_customer_however_much_it_has(
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
    await world.engine()
    others = [f"c{n}" for n in range(20)]
    await world.send(["ann"] * 250 + others)
    await eventually(lambda: set(world.order()) == set(others), 20)
    released.set()
    await eventually(lambda: len(world.order().get("ann", ())) == 250, 60)
    assert world.order() == world.expected()


async def test_too_many_requests_waits_as_told_and_uses_up_no_attempt(world: World) -> None:
    left = [2]

    def answer(body: dict[str, Any]) -> web.Response:
        left[0] -= 1
        return web.Response(status=429, headers={"Retry-After": "1"}) if left[0] >= 0 else web.Response()

    world.receiver.answer = answer
    await world.engine()
    await world.send(["ann", "ann"])
    await all_taken(world)
    assert world.order() == {"ann": [0, 1]}
    assert [hit.number for hit in world.receiver.hits] == [0, 0, 0, 1]
    assert world.receiver.hits[1].at - world.receiver.hits[0].at >= 0.95
    assert [entry["attempt"] for entry in await world.deliveries()] == [1, 1, 1, 1]


async def test_a_wrong_setup_pauses_the_integration_until_it_is_edited(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.receiver.answer = lambda body: web.Response(status=401)
    engine = await world.engine()
    await world.send(["ann", "bob", "ann"])
    pause = await eventually(lambda: engine.paused.get((world.partner, "hook")))
    assert pause.alert
    assert "ALERT" in caplog.text
    hits = len(world.receiver.hits)
    world.receiver.answer = lambda body: web.Response()
    world.put()
    await all_taken(world)
    assert world.order() == world.expected()
    assert engine.paused == {}
    assert hits <= 2, "one request found it out, another may have been on its way"
    assert await world.undeliverable() == []


@pytest.mark.parametrize("fault", ["kind", "settings", "secret", "address"])
async def test_what_cannot_be_set_up_sends_nothing_and_keeps_the_records(world: World, fault: str) -> None:
    wrong = {
        "kind": {"kind": "pigeon"},
        "settings": {"settings": {"url": "ftp://example.com"}},
        "secret": {"secret": None},
        "address": {"settings": {"url": "http://169.254.169.254/latest"}},
    }[fault]
    world.put(**wrong)
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: engine.paused.get((world.partner, "hook")))
    world.put()
    await all_taken(world)
    assert [hit.number for hit in world.receiver.hits] == [0]


@pytest.mark.parametrize("how", ["disabled", "removed", "master"])
async def test_switching_off_stops_queued_retries_and_keeps_them(world: World, how: str) -> None:
    world.receiver.answer = lambda body: web.Response(status=503)
    engine = await world.engine()
    await world.send(["ann", "ann"])
    await eventually(lambda: world.receiver.hits)
    if how == "master":
        world.switch(False)
    else:
        world.put(enabled=False, removed=how == "removed")
    await eventually(lambda: not engine._outlets)
    hits = len(world.receiver.hits)
    world.receiver.answer = lambda body: web.Response()
    await asyncio.sleep(1)  # nothing happening has no condition to wait for; both delays end within this
    assert len(world.receiver.hits) == hits
    world.switch(True)
    world.put()
    await all_taken(world)
    assert world.order() == {"ann": [0, 1]}


async def test_a_new_integration_is_picked_up_within_two_seconds(world: World) -> None:
    await world.engine()
    await world.send(["ann"])
    await all_taken(world)
    await world.make_topics("late")
    world.put("late")
    started = asyncio.get_running_loop().time()
    await world.send(["bob"], "late")
    await all_taken(world)
    assert world.receiver.hits[-1].at - started < 2


async def test_a_restart_in_the_middle_of_retries_loses_nothing_and_keeps_ids_and_order(world: World) -> None:
    world.receiver.answer = lambda body: web.Response(status=503)
    engine = await world.engine()
    await world.send(["ann", "ann", "bob", "ann", "bob"])
    await eventually(lambda: len(world.receiver.hits) >= 3)
    await crash(engine)
    world.engines.remove(engine)
    world.receiver.answer = lambda body: web.Response()
    await world.engine()
    await all_taken(world)
    assert world.order() == world.expected()
    assert all(hit.id == f"{world.partner}-{hit.number}" for hit in world.receiver.hits)


async def test_after_a_restart_new_records_wait_for_those_in_retry_topics(world: World) -> None:
    world.settings.retry_schedule = "1500ms"
    world.receiver.answer = lambda body: web.Response(status=503)
    engine = await world.engine()
    await world.send(["ann"])
    await eventually(lambda: world.read(f"dispatch.{world.partner}.hook.retry.1500ms"))
    await crash(engine)
    world.engines.remove(engine)
    world.receiver.answer = lambda body: web.Response()
    await world.send(["ann", "bob"])
    await world.engine()
    await all_taken(world)
    assert world.order() == {"ann": [0, 1], "bob": [2]}


async def test_copies_that_a_crash_left_behind_are_sent_once(world: World) -> None:
    """Record 0 was moved twice and record 1 once, none of it was committed, and many records lie before them."""
    await world.send(["ann", "ann", "ann"])
    lane = partition_for(b"ann", LANES)
    topics = of_integration(load(), LANES, 1, world.partner, "hook", ["200ms", "400ms"])
    await ensure(world.kafka, topics)
    producer = world.kafka.producer()
    await producer.start()

    async def move(customer: str, number: int, tier: str, hop: int, **fields: Any) -> None:
        value = json.dumps(world.record(customer, number) | fields).encode()
        topic, headers = f"dispatch.{world.partner}.hook.retry.{tier}", headers_of(Place(number, hop))
        await producer.send(topic, value, customer.encode(), lane, headers=headers)

    due = int(time.time() * 1000) + 4000
    for number in range(WINDOW + 100):  # what lies behind these is not read before they are due
        await move(f"c{number}", 1000 + number, "200ms", 1, due=due)
    await move("ann", 0, "200ms", 1, attempt=1)
    await move("ann", 1, "200ms", 1)
    await move("ann", 0, "400ms", 2, attempt=2)
    await producer.stop()
    first = await world.engine()
    await eventually(lambda: world.receiver.taken(), every=0.01)
    await first.stop()
    world.engines.remove(first)
    assert [hit.number for hit in world.receiver.hits] == [0]
    await world.engine()
    await eventually(lambda: len({hit.number for hit in world.receiver.taken()}) == WINDOW + 103)
    assert [hit.number for hit in world.receiver.hits if hit.customer == "ann"] == [0, 1, 2]
    attempts = [entry["attempt"] for entry in await world.deliveries() if entry["customer"] == "ann"]
    assert attempts == [3, 1, 1]


async def test_a_failed_record_is_not_committed_before_kafka_has_it_for_the_retry(world: World) -> None:
    world.receiver.answer = failing({"ann": 1})
    engine = await world.engine()
    send, held = engine._producer.send, asyncio.Event()

    async def holding(topic: str, *args: Any, **kwargs: Any) -> Any:
        if ".retry." not in topic:
            return await send(topic, *args, **kwargs)
        held.set()
        return asyncio.get_running_loop().create_future()

    engine._producer.send = holding
    lane = partition_for(b"ann", LANES)
    neighbour = next(name for name in map(str, range(99)) if partition_for(name.encode(), LANES) == lane)
    await world.send(["ann", neighbour])
    await held.wait()
    await eventually(lambda: world.order() == {neighbour: [1]})
    tp = TopicPartition(f"dispatch.{world.partner}.hook", lane)

    async def committed() -> tuple[int, str]:
        return (await engine._reader.committed([tp])).get(tp, (-1, ""))

    offset, _ = await eventually(lambda: _with_metadata(committed))
    assert offset == 0, "the neighbour is done and told beside the offset, ann's record is not"


async def _with_metadata(committed: Any) -> Any:
    offset, metadata = await committed()
    return (offset, metadata) if metadata or offset > 0 else None


async def test_a_lane_that_is_given_up_is_finished_and_the_next_owner_repeats_nothing(world: World) -> None:
    first = await world.engine()
    await world.send([f"c{n}" for n in range(30)])
    await all_taken(world)
    await first.revoke(set(range(LANES)))
    await world.engine()
    await world.send(["last"])
    await all_taken(world)
    assert len(world.receiver.hits) == 31


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_thousand_records_with_random_failures_and_crashes(world: World, seed: int) -> None:
    """The receiver's journal against an oracle: order per customer at first sight, nothing lost."""
    dice = random.Random(seed)
    world.settings.retry_schedule = ",".join(["100ms", "200ms", "300ms"] * 6)

    async def answer(body: dict[str, Any]) -> web.Response:
        roll = dice.random()
        if roll < 0.05:
            await asyncio.sleep(0.05)
        return web.Response(status=503 if roll < 0.2 else 200)

    world.receiver.answer = answer
    engine = await world.engine()
    await world.send([f"c{dice.randrange(50)}" for _ in range(1000)])
    for share in (200, 600):
        await eventually(lambda wanted=share: len(world.receiver.taken()) > wanted, 60)
        await crash(engine)
        world.engines.remove(engine)
        engine = await world.engine()
    await all_taken(world, 120)
    assert world.order() == world.expected()
    assert await world.undeliverable() == []
    repeats = len(world.receiver.taken()) - 1000
    assert repeats <= 2 * (50 + 64), "a crash repeats what was in flight, not what was done"
    ids: dict[int, set[str]] = defaultdict(set)
    for hit in world.receiver.hits:
        ids[hit.number].add(hit.id)
    assert all(len(names) == 1 for names in ids.values())


async def test_redirects_are_not_followed(world: World) -> None:
    world.receiver.answer = lambda body: web.Response(status=302, headers={"Location": world.receiver.url + "/b"})
    engine = await world.engine()
    await world.send(["ann"])
    pause = await eventually(lambda: engine.paused.get((world.partner, "hook")))
    assert "redirects are not followed" in pause.reason
    assert len(world.receiver.hits) == 1


async def test_a_huge_answer_is_cut(world: World) -> None:
    world.receiver.answer = lambda body: web.Response(body=b"x" * (10 << 20))
    await world.engine()
    await world.send(["ann"])
    (entry,) = await eventually(world.deliveries)
    assert (entry["outcome"], len(entry["answer"])) == ("ok", 2000)


async def test_offsets_need_a_group_that_nobody_joins(kafka: Kafka, prefix: str) -> None:
    """Why `OFFSETS_GROUP` is not the lanes' group: Kafka refuses commits from outside to a group with members."""
    admin = kafka.admin()
    await admin.start()
    await admin.create_topics([NewTopic(prefix, 1, 1)])
    await admin.close()
    member = kafka.consumer(prefix, group_id=prefix)
    outsider = kafka.consumer(group_id=prefix)
    alone = kafka.consumer(group_id=f"{prefix}-offsets")
    for consumer in (member, outsider, alone):
        await consumer.start()
    try:
        tp = TopicPartition(prefix, 0)
        await eventually(lambda: member.assignment())
        outsider.assign([tp])
        alone.assign([tp])
        with pytest.raises(KafkaError):
            await outsider.commit({tp: 0})
        await alone.commit({tp: (0, "kept")})
    finally:
        for consumer in (member, outsider, alone):
            await consumer.stop()
