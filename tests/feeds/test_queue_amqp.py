"""A RabbitMQ queue as a source, against Debian's rabbitmq-server."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from eventually import eventually
from feeds_world import World
from origins import Authority, rabbitmq

pytestmark = pytest.mark.kafka

TICK = b'{"event": "Tick", "userId": "c1"}'


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A RabbitMQ for the tests of this file."""
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as found:
        yield found


@asynccontextmanager
async def channel(port: int) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(host="127.0.0.1", port=port)
    async with connection:
        yield await connection.channel()


async def send(port: int, queue: str, values: Sequence[bytes], exchange: str = "", **properties: Any) -> None:
    async with channel(port) as made:
        where = await made.get_exchange(exchange) if exchange else made.default_exchange
        for value in values:
            await where.publish(aio_pika.Message(value, **properties), queue)


async def left(port: int, queue: str) -> int:
    """Messages of the queue that are not acknowledged, once nobody has them."""
    async with channel(port) as made:
        declared = await made.declare_queue(queue, passive=True)
        count: int = declared.declaration_result.message_count
        return count


def settings(port: int, queue: str, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "queue": queue, "declare": {}} | more


async def test_messages_of_a_bound_queue_become_events_and_equal_ones_are_two(world: World, port: int) -> None:
    world.secrets["pass"] = "guest"
    async with channel(port) as made:
        await made.declare_exchange(f"{world.partner}-x", aio_pika.ExchangeType.TOPIC, durable=True)
    declared = {"exchange": f"{world.partner}-x", "routing_keys": ["order.#"]}
    mapping = {
        "events": [
            {
                "event": "Ordered",
                "userId": "$.userId",
                "properties": {"key": "$header.amqp-routing-key", "shop": "$header.shop"},
            }
        ]
    }
    made_settings = settings(port, world.partner, declare=declared, mapping=mapping)
    world.put("queue-amqp", made_settings, secret="pass")
    await world.engine()
    await eventually(world.runs)
    exchange = f"{world.partner}-x"
    await send(port, "order.new", [TICK] * 3, exchange, headers={"Shop": "Berlin"})
    await send(port, "order.new", [TICK], exchange, message_id="mine")
    await send(port, "refund", [TICK], exchange)
    await send(port, "order.bad", [b"no json"], exchange)
    await eventually(lambda: _ids(world, 4))
    refused = await eventually(world.refused)
    assert [each["reason"] for each in refused] == ["not_json"]
    assert "mine" in await world.ids()
    _, event = (await world.raw())[0]
    assert event["properties"] == {"key": "order.new", "shop": "Berlin"}
    await world.end(world.engines[0])
    await eventually(lambda: _left(port, world.partner, 0), what="all were acknowledged")


async def test_a_process_killed_between_commit_and_acknowledgement_loses_nothing_and_repeats_the_id(
    world: World, port: int
) -> None:
    world.secrets["pass"] = "guest"
    world.put("queue-amqp", settings(port, world.partner, prefetch=50), secret="pass")
    engine = await world.engine()
    await eventually(world.runs)
    await world.end(engine)
    await send(port, world.partner, [TICK] * 200)
    async with world.process(HEADRACE_FAILPOINT="after-commit:2") as first:
        assert await first.wait() == -9
    before = len(await world.raw())
    second = await world.engine()
    await eventually(lambda: _ids(world, 200), 60)
    await world.end(second)
    await eventually(lambda: _left(port, world.partner, 0))
    found = await world.raw()
    assert before
    assert len(found) > 200, "what was committed and not acknowledged came again"
    assert len({name for name, _ in found}) == 200, "and has the id that it had, though all are equal"


async def test_what_the_broker_refuses_is_shown_as_a_fault(world: World, port: int) -> None:
    world.secrets.update({"wrong": "no", "pass": "guest"})
    world.put("queue-amqp", settings(port, world.partner), "password", secret="wrong")
    world.put("queue-amqp", settings(port, "nowhere", declare=None), "queue", secret="pass")
    world.put("queue-amqp", settings(port, "q", vhost="none"), "vhost", secret="pass")
    await world.engine()
    for source in ("password", "queue", "vhost"):
        told = await eventually(lambda source=source: (s := world.status(source)) and s.state == "fault" and s)
        assert "127.0.0.1" in told.reason
        assert "guest" not in json.dumps(told.reason)
    world.put("queue-amqp", settings(port, world.partner), "password", secret="pass")
    await eventually(lambda: world.runs("password"))


async def test_a_queue_that_is_deleted_under_way_is_noticed(world: World, port: int) -> None:
    world.secrets["pass"] = "guest"
    world.put("queue-amqp", settings(port, world.partner), secret="pass")
    await world.engine()
    await eventually(world.runs)
    async with channel(port) as made:
        await made.queue_delete(world.partner)
    # Declared anew by the next attempt.
    await eventually(lambda: (s := world.status()) and s.state == "waiting")
    await eventually(world.runs)
    await send(port, world.partner, [TICK])
    await eventually(lambda: _ids(world, 1))


async def _ids(world: World, wanted: int) -> bool:
    return len(await world.ids()) >= wanted


async def _left(port: int, queue: str, wanted: int) -> bool:
    return await left(port, queue) == wanted


async def test_tls_checks_the_broker_and_shows_it_our_certificate(world: World, tmp_path: Path) -> None:
    ours, others = Authority(), Authority()
    with rabbitmq(tmp_path / "tls", ours) as port:
        certificate, key = ours.issue("headrace")
        world.secrets["key"] = json.dumps({"key": key})
        tls = {"ca": ours.pem, "certificate": certificate}
        given = settings(port, f"{world.partner}-tls", host="localhost", tls=tls)
        world.put("queue-amqp", given, secret="key")
        world.put("queue-amqp", given | {"tls": tls | {"ca": others.pem}}, "other-ca", secret="key")
        world.put("queue-amqp", given | {"host": "127.0.0.1"}, "other-name", secret="key")
        world.put("queue-amqp", given, "keyless")
        await world.engine()
        await eventually(world.runs)
        for wrong in ("other-ca", "other-name"):
            told = await eventually(lambda wrong=wrong: (s := world.status(wrong)) and "ertificate" in s.reason and s)
            assert told.state == "waiting"
        told = await eventually(lambda: (s := world.status("keyless")) and s.state == "fault" and s)
        assert "private key" in told.reason
        context = ssl.create_default_context(cadata=ours.pem)
        (tmp_path / "client.pem").write_text(f"{key}\n{certificate}")
        context.load_cert_chain(tmp_path / "client.pem")
        connection = await aio_pika.connect(host="localhost", port=port, ssl=True, ssl_context=context)
        async with connection:
            made = await connection.channel()
            await made.default_exchange.publish(aio_pika.Message(TICK), f"{world.partner}-tls")
        found = await eventually(lambda: _raw(world))
        assert len(found) == 1


async def _raw(world: World) -> list[Any]:
    return await world.raw()
