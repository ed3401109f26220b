"""The live view: stages of a source as they come, bounded, on a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from eventually import eventually

from pipeline.models.control import Source
from pipeline.query import live as live_view
from pipeline.query.live import Ended, Live, Sighting, Watcher
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import ensure
from pipeline.topics.wanted import wanted

EVENT: dict[str, Any] = {"event": "Seen", "userId": "ann", "messageId": "m-1"}


def source(partner: str, name: str = "app") -> Source:
    return Source(id=name, partner=partner, name="App", code="app", version=1, created=1, updated=1)


def sighting(id: str = "m") -> Sighting:
    return Sighting(stage="raw", id=id, at=1, after_ms=0, place="t[0]@1")


@pytest.fixture
async def topics(kafka: Kafka, prefix: str) -> str:
    every = wanted(Settings(lanes=2), [source(prefix), source(prefix, "web")])
    names = {"events", "rejected", "history", f"raw.{prefix}.app", f"raw.{prefix}.web"}
    await ensure(kafka, [topic for topic in every if topic.name in names])
    return prefix


@pytest.fixture
async def live(kafka: Kafka) -> AsyncIterator[Live]:
    found = Live(kafka)
    yield found
    await found.stop()


async def take(watcher: Watcher, count: int) -> list[Sighting]:
    found: list[Sighting] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            one = await watcher.next(1)
            found += [one] if one is not None else []
    return found


@pytest.mark.kafka
async def test_each_watcher_sees_its_source_at_every_stage_and_nothing_else(
    kafka: Kafka, live: Live, topics: str
) -> None:
    judged = {"id": "m-1", "partner": topics, "source": "app", "channel": "Web", "type": "track", "name": "Seen"}
    judged |= {"time": 1, "received": 1_790_000_000_000, "user_id": "ann", "control": 1}
    async with kafka.producer() as producer, live.watch(source(topics)) as watcher:
        async with live.watch(source(topics, "web")) as other:
            assert live._task is not None
            edge = ("ce_time", b"2026-01-31T12:00:00.000Z")
            await producer.send_and_wait(f"raw.{topics}.app", orjson.dumps(EVENT), partition=1, headers=[edge])
            received, arrived = await take(watcher, 2)
            assert (received.stage, received.at, received.after_ms) == ("edge", 1_769_860_800_000, 0)
            assert (arrived.stage, arrived.id, arrived.name, arrived.who) == ("raw", "m-1", "Seen", "ann")
            assert arrived.after_ms == arrived.at - received.at
            assert arrived.place.startswith(f"raw.{topics}.app[1]@")

            await producer.send_and_wait("events", orjson.dumps(judged), key=b"k", partition=0)
            await producer.send_and_wait("events", orjson.dumps(judged | {"source": "none"}), partition=0)
            await producer.send_and_wait("events", b'{"received":{}}', key=b"~watermark", partition=0)
            await producer.send_and_wait("events", b"not ours", partition=0)
            whole = judged | {"customer": f"{topics}|u|ann", "flags": ["bot"]}
            await producer.send_and_wait("history", orjson.dumps(whole), partition=1)
            accepted, counted = await take(watcher, 2)
            assert (accepted.stage, accepted.id, accepted.who) == ("accepted", "m-1", "ann")
            assert (counted.stage, counted.who, counted.flags) == ("counted", f"{topics}|u|ann", ["bot"])

            no = {"reason": "shape", "detail": "wrong", "path": "$.userId", "partner": topics, "source": "app"}
            no |= {"topic": f"raw.{topics}.app", "partition": 1, "offset": 9, "received": 1_790_000_000_000}
            await producer.send_and_wait("rejected", orjson.dumps(no), key=f"{topics}.app".encode(), partition=0)
            (rejected,) = await take(watcher, 1)
            assert (rejected.stage, rejected.reason, rejected.path) == ("rejected", "shape", "$.userId")
            assert rejected.id == "k:1:9", "an event without an id has its place for one, as intake has it"

            await producer.send_and_wait(f"raw.{topics}.web", b"\xff no json", partition=0)
            (garbage,) = await take(other, 1)
            assert (garbage.stage, garbage.name) == ("raw", None)
        assert await watcher.next(0.01) is None
    await eventually(lambda: live._task is not None and live._task.done(), 10, what="no reader where nobody watches")


@pytest.mark.kafka
async def test_what_is_not_committed_is_not_seen_and_what_was_before_is_not(
    kafka: Kafka, live: Live, topics: str
) -> None:
    topic = f"raw.{topics}.app"
    async with kafka.producer() as plain, kafka.producer(transactional_id=f"{topics}-t") as producer:
        await plain.send_and_wait(topic, orjson.dumps(EVENT | {"messageId": "before"}), partition=0)
        async with live.watch(source(topics)) as watcher:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, orjson.dumps(EVENT | {"messageId": "aborted"}), partition=0)
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send_and_wait(topic, orjson.dumps(EVENT | {"messageId": "committed"}), partition=0)
            assert [each.id for each in await take(watcher, 1)] == ["committed"]


async def test_who_does_not_read_is_let_go_with_a_note_and_has_what_waited() -> None:
    watcher = Watcher(source("acme"))
    for number in range(live_view._WAITING + 10):
        watcher.see(sighting(str(number)))
    assert watcher.ended
    for number in range(live_view._WAITING):
        seen = await watcher.next(1)
        assert seen is not None
        assert seen.id == str(number)
    with pytest.raises(Ended, match="read faster") as caught:
        await watcher.next(1)
    assert caught.value.code == "slow"


@pytest.mark.kafka
async def test_a_client_that_has_gone_is_let_go_and_too_many_are_told(
    kafka: Kafka, live: Live, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_view, "MAX_WATCHERS", 1)
    async with live.watch(source(topics)) as watcher:
        with pytest.raises(Ended, match="watch already"):
            async with live.watch(source(topics)):
                pytest.fail("one too many")
        watcher.asked -= 2 * live_view._PATIENCE_SECONDS
        await eventually(lambda: watcher.ended, 10)
        with pytest.raises(Ended, match="nothing was read"):
            await watcher.next(1)


@pytest.mark.kafka
async def test_stopping_tells_every_watcher(kafka: Kafka, live: Live, topics: str) -> None:
    async with live.watch(source(topics)) as watcher:
        await live.stop()
        with pytest.raises(Ended) as caught:
            await watcher.next(1)
        assert caught.value.code == "stopped"
    with pytest.raises(Ended):
        async with live.watch(source(topics)):
            pytest.fail("it has stopped")


async def test_without_kafka_it_says_so() -> None:
    away = Live(Kafka("127.0.0.1:1"))
    with pytest.raises(Ended) as caught:
        async with away.watch(source("acme")):
            pytest.fail("no Kafka")
    assert caught.value.code == "unavailable"
    await away.stop()
