"""Plan and apply on a real broker: create, grow, refuse with the reason; never lose data."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaError
from eventually import eventually

from pipeline.stream.kafka import Kafka
from pipeline.topics.apply import apply, ensure
from pipeline.topics.plan import plan
from pipeline.topics.spec import Topic


def topic(name: str, **changed: object) -> Topic:
    config = {"cleanup.policy": "delete", "retention.ms": "1000000", "message.timestamp.type": "LogAppendTime"}
    config |= changed.pop("config", {})  # type: ignore[arg-type]
    return Topic(**({"name": name, "partitions": 2, "replication": 1, "config": config} | changed))


async def test_a_plan_is_empty_once_it_was_applied(kafka: Kafka, prefix: str) -> None:
    wanted = [topic(f"{prefix}.a"), topic(f"{prefix}.b", partitions=3)]
    first = await plan(kafka, wanted)
    assert [(c.topic, c.action) for c in first.changes] == [(f"{prefix}.a", "create"), (f"{prefix}.b", "create")]
    await apply(kafka, first)
    assert (await plan(kafka, wanted)).changes == []


async def test_more_retention_is_set_and_other_settings_of_the_topic_stay(kafka: Kafka, prefix: str) -> None:
    await ensure(kafka, [topic(prefix, config={"max.message.bytes": "3000000", "segment.bytes": "1234567"})])
    wanted = [topic(prefix, config={"retention.ms": "-1"})]
    found = await plan(kafka, wanted)
    assert [(c.action, c.what, c.before, c.after) for c in found.changes] == [("set", "retention.ms", "1000000", "-1")]
    await apply(kafka, found)
    assert (await plan(kafka, wanted)).changes == []
    kept = [topic(prefix, config={"retention.ms": "-1", "max.message.bytes": "3000000", "segment.bytes": "1234567"})]
    assert (await plan(kafka, kept)).changes == []


async def test_what_would_lose_data_or_move_keys_is_refused_with_the_reason(kafka: Kafka, prefix: str) -> None:
    await ensure(kafka, [topic(prefix)])
    smaller = topic(prefix, partitions=4, config={"retention.ms": "1000", "cleanup.policy": "compact"})
    found = await plan(kafka, [smaller])
    assert {c.what: c.action for c in found.changes} == {
        "partitions": "refuse",
        "retention.ms": "refuse",
        "cleanup.policy": "refuse",
    }
    assert all(change.reason for change in found.refused)
    await apply(kafka, found)
    assert (await plan(kafka, [topic(prefix)])).changes == []


async def test_other_replication_is_refused_with_what_to_do(kafka: Kafka, prefix: str) -> None:
    await ensure(kafka, [topic(prefix)])
    found = await plan(kafka, [topic(prefix, replication=2)])
    assert [(c.action, c.what, c.before, c.after) for c in found.changes] == [("refuse", "replication", "1", "2")]
    assert "kafka-reassign-partitions" in found.render()


async def test_one_bad_topic_is_named_and_does_not_keep_the_others_from_being_made(kafka: Kafka, prefix: str) -> None:
    wanted = [topic(f"{prefix}.bad", config={"cleanup.policy": "sometimes"}), topic(f"{prefix}.good")]
    with pytest.raises(KafkaError, match=f"{prefix}.bad"):
        await ensure(kafka, wanted)

    async def only_the_bad_one_is_left() -> bool:
        return [change.topic for change in (await plan(kafka, wanted)).changes] == [f"{prefix}.bad"]

    # A broker tells of a topic a moment after the controller has made it.
    await eventually(only_the_bad_one_is_left)


async def test_topics_that_nobody_wants_are_named_and_kept(kafka: Kafka, prefix: str) -> None:
    await ensure(kafka, [topic(f"{prefix}.old"), topic(f"{prefix}.new")])
    found = await plan(kafka, [topic(f"{prefix}.new")], prefixes=(f"{prefix}.",))
    assert [(c.topic, c.action) for c in found.changes] == [(f"{prefix}.old", "extra")]
    assert f"? {prefix}.old" in found.render()
    await apply(kafka, found)
    assert (await plan(kafka, [topic(f"{prefix}.old")])).changes == []


async def test_several_may_ensure_the_same_topics_at_once(kafka: Kafka, prefix: str) -> None:
    wanted = [topic(f"{prefix}.{n}") for n in range(3)]
    await asyncio.gather(*(ensure(kafka, wanted) for _ in range(4)))
    assert (await plan(kafka, wanted)).changes == []
