"""MQTT topics as a source, against Debian's mosquitto: redeliveries, equal messages, TLS, crashes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiomqtt import Client, ProtocolVersion
from eventually import eventually
from feeds_world import World
from origins import Authority, Mosquitto
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from pipeline.bridges.ledger import Ledger
from pipeline.bridges.queue_mqtt import QueueMqttSettings

pytestmark = pytest.mark.kafka

TICK = b'{"event": "Tick", "userId": "c1"}'


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker of the test's own."""
    broker = Mosquitto(tmp_path / "mosquitto")
    broker.start()
    yield broker
    broker.stop()


async def publish(
    port: int, topic: str, values: Sequence[bytes], *, id: str | None = None, qos: int = 1, retain: bool = False
) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    if id is not None:
        properties.UserProperty = [("message-id", id), ("Shop", "Berlin")]
    async with Client("127.0.0.1", port, protocol=ProtocolVersion.V5) as client:
        for value in values:
            await client.publish(topic, value, qos=qos, retain=retain, properties=properties)


def settings(broker: Mosquitto, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": broker.port, "topics": ["shop/+/orders"]} | more


async def test_equal_messages_are_two_and_an_id_of_their_own_is_kept(world: World, mosquitto: Mosquitto) -> None:
    world.put("queue-mqtt", settings(mosquitto))
    await world.engine()
    await eventually(world.runs)
    await publish(mosquitto.port, "shop/1/orders", [TICK] * 5)
    await publish(mosquitto.port, "shop/2/orders", [TICK], id="mine")
    await publish(mosquitto.port, "elsewhere", [TICK])
    await eventually(lambda: _ids(world, 6))
    ids = await world.ids()
    assert "mine" in ids
    assert len(await world.raw()) == 6


async def test_a_process_killed_between_commit_and_acknowledgement_loses_nothing_and_repeats_the_id(
    world: World, mosquitto: Mosquitto
) -> None:
    world.put("queue-mqtt", settings(mosquitto))
    engine = await world.engine()
    await eventually(world.runs)
    await world.end(engine)  # its session stays
    await publish(mosquitto.port, "shop/1/orders", [TICK] * 40)
    async with world.process(HEADRACE_FAILPOINT="after-commit:1") as first:
        assert await first.wait() == -9
    before = await world.raw()
    assert before
    # The broker is restarted too, and keeps the session: what it redelivers was delivered to a process that is gone.
    mosquitto.stop()
    mosquitto.start()
    second = await world.engine()
    await eventually(lambda: _ids(world, 40), 60)
    await publish(mosquitto.port, "shop/1/orders", [TICK])
    await eventually(lambda: _ids(world, 41))
    await world.end(second)
    found = await world.raw()
    assert len(found) == 41 + len(before), "what was committed came again"
    assert len({name for name, _ in found}) == 41, "and a repeat has the id that it had"


async def test_a_mapping_reads_the_topic_and_text_that_is_no_json(world: World, mosquitto: Mosquitto) -> None:
    mapping = {
        "events": [
            {
                "event": "Measured",
                "anonymousId": "$header.mqtt-topic",
                "properties": {"degrees": {"path": "$.text", "as": "number"}, "shop": "$header.shop"},
            }
        ]
    }
    world.put("queue-mqtt", settings(mosquitto, topics=["sensors/#"], format="text", mapping=mapping))
    await world.engine()
    await eventually(world.runs)
    await publish(mosquitto.port, "sensors/a", [b"21.5"], id="m1")
    await publish(mosquitto.port, "sensors/a", [b"warm"], qos=0)
    refused = await eventually(lambda: _refused(world))
    assert refused[0]["reason"] == "shape"
    ((name, event),) = await eventually(lambda: world.raw())
    assert name == "m1"
    assert event["anonymousId"] == "sensors/a"
    assert event["properties"] == {"degrees": 21.5, "shop": "Berlin"}


async def test_what_is_retained_comes_once_however_often_we_connect(world: World, mosquitto: Mosquitto) -> None:
    await publish(mosquitto.port, "shop/1/orders", [TICK], retain=True)
    world.put("queue-mqtt", settings(mosquitto))
    engine = await world.engine()
    await eventually(lambda: _ids(world, 1))
    await world.end(engine)
    await world.engine()
    await eventually(world.runs)
    await publish(mosquitto.port, "shop/2/orders", [TICK], id="last")
    await eventually(lambda: _has(world, "last"))
    assert len(await world.raw()) == 2


async def test_a_broker_that_goes_away_is_waited_for_and_a_filter_that_is_dropped_is_unsubscribed(
    world: World, mosquitto: Mosquitto
) -> None:
    world.put("queue-mqtt", settings(mosquitto, topics=["a", "b"]))
    await world.engine()
    await eventually(world.runs)
    await publish(mosquitto.port, "a", [TICK])
    await eventually(lambda: _ids(world, 1))
    mosquitto.stop()
    await eventually(lambda: (s := world.status()) and s.state == "waiting" and s)
    mosquitto.start()
    await eventually(world.runs)
    world.put("queue-mqtt", settings(mosquitto, topics=["b"]))
    await eventually(world.runs)
    await publish(mosquitto.port, "a", [TICK])
    await publish(mosquitto.port, "b", [TICK], id="last")
    await eventually(lambda: _has(world, "last"))
    assert len(await world.raw()) == 2


async def test_tls_checks_the_broker_and_shows_it_our_certificate(world: World, tmp_path: Path) -> None:
    ours, others = Authority(), Authority()
    broker = Mosquitto(tmp_path / "tls", ours)
    broker.start()
    try:
        certificate, key = ours.issue("headrace")
        world.secrets["key"] = json.dumps({"key": key})
        tls = {"ca": ours.pem, "certificate": certificate}
        where = {"host": "localhost"}
        world.put("queue-mqtt", settings(broker, tls=tls, **where), secret="key")
        world.put("queue-mqtt", settings(broker, tls=tls | {"ca": others.pem}, **where), "other-ca", secret="key")
        world.put("queue-mqtt", settings(broker, tls=tls, host="127.0.0.1"), "other-name", secret="key")
        world.put("queue-mqtt", settings(broker, tls=tls, **where), "keyless")
        await world.engine()
        await eventually(world.runs)
        for wrong in ("other-ca", "other-name"):
            told = await eventually(lambda wrong=wrong: (s := world.status(wrong)) and "ertificate" in s.reason and s)
            assert told.state == "waiting"
        told = await eventually(lambda: (s := world.status("keyless")) and s.state == "fault" and s)
        assert "private key" in told.reason
    finally:
        broker.stop()


def test_the_ledger_tells_a_redelivery_from_an_equal_message() -> None:
    first = Ledger(None, 4)
    given = [first.id("7", False), first.id("8", False), first.id("7", False)]
    assert len(set(given)) == 3, "a mark that is used again is another message"
    again = Ledger(json.loads(json.dumps(first.position())), 4)
    assert [again.id("8", True), again.id("7", True), again.id("7", True)] == [given[1], given[2], given[0]]
    assert again.id("7", True) not in given
    assert again.id("9", True) not in given
    again.forget()
    assert again.id("8", True) not in given


def test_several_consumers_want_shared_topics() -> None:
    with pytest.raises(ValueError, match="shared topics"):
        QueueMqttSettings.model_validate({"host": "a", "topics": ["t"], "consumers": 2})
    QueueMqttSettings.model_validate({"host": "a", "topics": ["$share/g/t"], "consumers": 2})


async def _ids(world: World, wanted: int) -> bool:
    return len(await world.ids()) >= wanted


async def _has(world: World, name: str) -> bool:
    return name in await world.ids()


async def _refused(world: World) -> Any:
    return await world.refused()
