"""Another Kafka's topic as a source, on a real broker: nothing lost, nothing counted twice, faults shown."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from eventually import eventually
from feeds_world import World
from origins import Authority, KafkaTls
from records import make_topic

from pipeline.bridges.queue_kafka import QueueKafkaSettings
from pipeline.broker.superuser import Superuser

pytestmark = pytest.mark.kafka


def event(number: int) -> bytes:
    return json.dumps({"event": "Ordered", "userId": f"c{number % 7}", "properties": {"n": number}}).encode()


async def send(world: World, topic: str, values: list[bytes], headers: list[tuple[str, bytes]] | None = None) -> None:
    async with world.kafka.producer() as producer:
        for number, value in enumerate(values):
            await producer.send(topic, value, key=f"k{number}".encode(), headers=headers or [])


def settings(world: World, **more: Any) -> dict[str, Any]:
    return {"brokers": world.kafka.bootstrap_servers, "topic": f"{world.partner}.orders"} | more


async def committed(world: World) -> int:
    """The sum of the offsets that the bridge has committed at the origin."""
    admin = world.kafka.admin()
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(f"headrace-{world.partner}-feed")
    finally:
        await admin.close()
    return sum(meta.offset for tp, meta in found.items() if isinstance(tp, TopicPartition))


async def test_records_of_another_topic_become_events_and_are_committed_there(world: World) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 3)
    await send(world, f"{world.partner}.orders", [event(n) for n in range(50)])
    world.put("queue-kafka", settings(world))
    await world.engine()
    await eventually(lambda: _count(world, 50))
    found = await world.raw()
    assert sorted(each["properties"]["n"] for _, each in found) == list(range(50))
    assert all(name.startswith(f"{world.partner}.orders-") for name, _ in found)
    await eventually(lambda: _committed(world, 50), what="offsets at the origin")
    await send(world, f"{world.partner}.orders", [event(n) for n in range(50, 60)])
    await eventually(lambda: _count(world, 60))
    told = await eventually(lambda: (s := world.status()) and s.taken == 60 and s)
    assert told.state == "running"
    assert told.lag == 0


async def test_a_mapping_makes_events_of_foreign_records_and_what_does_not_fit_is_kept_with_its_bytes(
    world: World,
) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 1)
    mapping = {
        "events": [
            {
                "when": {"$.kind": "order"},
                "each": "$.lines",
                "event": "Bought",
                "userId": "$.who",
                "properties": {"sku": "@.sku", "origin": "$header.origin", "topic": "$header.kafka-topic"},
            }
        ]
    }
    order = {"kind": "order", "who": 17, "lines": [{"sku": "a"}, {"sku": "b"}]}
    values = [json.dumps(order).encode(), b'{"kind": "other"}', b"\xff no json", b""]
    await send(world, f"{world.partner}.orders", values, [("Origin", b"till")])
    world.put("queue-kafka", settings(world, mapping=mapping))
    await world.engine()
    refused = await eventually(lambda: _refused(world, 3))
    assert [each["reason"] for each in refused] == ["shape", "not_json", "empty"]
    assert refused[0]["partner"] == world.partner
    assert refused[0]["source"] == "feed"
    found = await world.raw()
    assert [each["properties"]["sku"] for _, each in found] == ["a", "b"]
    assert found[0][1]["properties"] == {"sku": "a", "origin": "till", "topic": f"{world.partner}.orders"}
    assert len({name for name, _ in found}) == 2
    await eventually(lambda: _committed(world, 4), what="refused ones are acknowledged too")


async def test_a_process_killed_between_commit_and_acknowledgement_loses_nothing_and_repeats_ids(
    world: World,
) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 2)
    await send(world, f"{world.partner}.orders", [event(n) for n in range(300)])
    world.put("queue-kafka", settings(world))
    async with world.process(HEADRACE_FAILPOINT="after-commit:1") as first:
        assert await first.wait() == -9
    before = await world.raw()
    assert before
    assert await committed(world) == 0
    second = await world.engine()
    await eventually(lambda: _committed(world, 300), 60)
    await world.end(second)
    found = await world.raw()
    assert len(found) > 300, "the crash made it take some again"
    assert {each["properties"]["n"] for _, each in found} == set(range(300))
    assert len({name for name, _ in found}) == 300, "a repeat has the id that it had"


async def test_what_is_wrong_is_shown_and_mended_by_an_edit_and_holds_up_nobody_else(world: World) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 1)
    await send(world, f"{world.partner}.orders", [event(1)])
    world.put("queue-kafka", settings(world, topic=f"{world.partner}.nowhere"), "broken")
    world.put("queue-kafka", settings(world, brokers="127.0.0.1:1"), "away")
    world.put("queue-kafka", settings(world))
    await world.engine()
    await eventually(lambda: _count(world, 1))
    told = await eventually(lambda: (s := world.status("broken")) and s.state == "fault" and s)
    assert "has no topic" in told.reason
    await eventually(lambda: (s := world.status("away")) and s.state == "waiting" and "127.0.0.1:1" in s.reason)
    world.put("queue-kafka", settings(world), "broken")
    await eventually(lambda: world.runs("broken"))


async def test_a_private_address_is_not_reached_unless_it_is_allowed(world: World) -> None:
    world.settings = world.settings.model_copy(update={"allow_networks": ""})
    world.put("queue-kafka", settings(world))
    await world.engine()
    told = await eventually(lambda: (s := world.status()) and "HEADRACE_ALLOW_NETWORKS" in s.reason and s)
    assert told.state == "waiting"


async def test_another_cluster_that_wants_a_login(world: World, broker_factory: Callable[..., Any]) -> None:
    user = Superuser("partner", "correct-horse-battery")
    other = broker_factory(superuser=user)
    other.start()
    topic = f"{world.partner}.orders"
    await make_topic(other.kafka, topic, 1)
    async with other.kafka.producer() as producer:
        await producer.send(topic, event(1))
    world.secrets.update({"right": user.password, "wrong": "incorrect-horse"})
    sasl = {"mechanism": "SCRAM-SHA-512", "username": user.name}
    there = {"brokers": other.bootstrap_servers, "topic": topic, "sasl": sasl}
    world.put("queue-kafka", there, secret="right")
    world.put("queue-kafka", there, "stranger", secret="wrong")
    world.put("queue-kafka", there, "nameless")
    await world.engine()
    await eventually(lambda: _count(world, 1), 60)
    told = await eventually(lambda: (s := world.status("stranger")) and "secret" in s.reason and s, 60)
    assert "horse" not in told.reason
    await eventually(lambda: (s := world.status("nameless")) and s.state == "fault" and "secret" in s.reason)


async def test_tls_checks_the_cluster_and_shows_it_our_certificate(world: World, tmp_path: Path) -> None:
    ours, others = Authority(), Authority()
    with KafkaTls(tmp_path / "tls", ours) as other:
        topic = f"{world.partner}.orders"
        await make_topic(other.kafka, topic, 1)
        async with other.kafka.producer() as producer:
            await producer.send(topic, event(1))
        certificate, key = ours.issue("headrace")
        world.secrets["key"] = json.dumps({"key": key})
        tls = {"ca": ours.pem, "certificate": certificate}
        there = {"brokers": f"localhost:{other.tls_port}", "topic": topic, "tls": tls}
        world.put("queue-kafka", there, secret="key")
        world.put("queue-kafka", there | {"tls": tls | {"ca": others.pem}}, "other-ca", secret="key")
        world.put("queue-kafka", there | {"brokers": f"127.0.0.1:{other.tls_port}"}, "other-name", secret="key")
        world.put("queue-kafka", there, "keyless")
        await world.engine()
        await eventually(lambda: _count(world, 1), 60)
        for wrong in ("other-ca", "other-name"):
            told = await eventually(lambda wrong=wrong: (s := world.status(wrong)) and "certificate" in s.reason and s)
            assert told.state == "waiting"
        told = await eventually(lambda: (s := world.status("keyless")) and s.state == "fault" and s)
        assert "private key" in told.reason
        assert len(await world.raw()) == 1


async def test_an_edit_acts_within_two_seconds_though_the_origin_does_not_answer(world: World) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()  # connections are taken, and nothing is said
        world.put("queue-kafka", settings(world, brokers=f"127.0.0.1:{mute.getsockname()[1]}"))
        await world.engine()
        await eventually(lambda: world.status() is not None)
        mute.settimeout(30)
        await asyncio.to_thread(mute.accept)
        world.put("queue-kafka", settings(world))
        await eventually(lambda: world.engines[0]._tasks[world.partner, "feed", 0].source.version == 2, 2)
        await eventually(world.runs)


async def test_switching_off_and_on_acts_within_two_seconds_and_loses_nothing(world: World) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 1)
    world.put("queue-kafka", settings(world))
    await world.engine()
    await eventually(world.runs)
    await send(world, f"{world.partner}.orders", [event(0)])
    await eventually(lambda: _count(world, 1))
    world.put("queue-kafka", settings(world), active=False)
    await eventually(lambda: not world.engines[0]._tasks, 2, what="it stops")
    await send(world, f"{world.partner}.orders", [event(1)])
    world.put("queue-kafka", settings(world))
    await eventually(lambda: _count(world, 2))
    assert len(await world.ids()) == 2


async def test_several_consumers_share_the_partitions_over_lanes(world: World) -> None:
    await make_topic(world.kafka, f"{world.partner}.orders", 4)
    await send(world, f"{world.partner}.orders", [event(n) for n in range(40)])
    world.put("queue-kafka", settings(world, consumers=2))
    await world.engine({0})
    await world.engine({1})
    await eventually(lambda: _count(world, 40))
    await eventually(lambda: all(world.status(number=n) is not None for n in (0, 1)))
    lanes = {world.status(number=n).lane for n in (0, 1)}  # type: ignore[union-attr]
    assert lanes == {0, 1}


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="is no path"):
        QueueKafkaSettings.model_validate({"brokers": "a:1", "topic": "t", "mapping": {"events": [{"event": "$.a b"}]}})
    with pytest.raises(ValueError, match="brokers"):
        QueueKafkaSettings.model_validate({"brokers": "http://a", "topic": "t"})


async def _count(world: World, wanted: int) -> bool:
    return len(await world.raw()) >= wanted


async def _committed(world: World, wanted: int) -> bool:
    return await committed(world) == wanted


async def _refused(world: World, wanted: int) -> Any:
    found = await world.refused()
    return found if len(found) == wanted else None
