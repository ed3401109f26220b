"""Endpoints at their worst: one of twenty that hangs, one down for an hour, what leads inside, bombs."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import pytest
from aiohttp import web
from eventually import eventually
from sinks_world import Receiver, World
from test_sink_guard import Names

from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.guard import Guard
from pipeline.sinks.http import MAX_ANSWER, HttpClient, NoAnswer

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


async def test_one_of_twenty_hangs_and_the_others_answer_as_quickly_as_before(world: World) -> None:
    """From the record on its topic to the request, with and without; the twentieth has as many records as any."""
    hanging = asyncio.Event()
    names = [f"t{number}" for number in range(20)]
    came: dict[int, float] = {}
    loop = asyncio.get_running_loop()

    async def answer(body: dict[str, Any]) -> web.Response:
        number = body["data"]["event"]["properties"]["n"]
        if hanging.is_set() and body["data"]["rule"] == "stuck":
            await asyncio.sleep(3_600)
        came.setdefault(number, loop.time())
        return web.Response()

    world.receiver.answer = answer
    for name in names:
        world.put(name, settings={"url": world.receiver.url, "timeout_s": 60, "max_in_flight": 4})
    await world.engine()

    producer = world.kafka.producer()
    await producer.start()
    for name in names:
        await world.make_topics(name)

    async def latencies() -> list[float]:
        began: dict[int, float] = {}
        for _ in range(10):
            for name in names:
                for customer in range(8):
                    number, stuck = len(world.sent), name == "t19"
                    world.sent.append(f"c{customer}")
                    record = world.record(f"c{customer}", number, name) | {"rule": "stuck" if stuck else "r"}
                    if not (stuck and hanging.is_set()):
                        began[number] = loop.time()
                    await world.produce(producer, name, f"c{customer}", json.dumps(record).encode())
        await eventually(lambda: began.keys() <= came.keys(), 60)
        return [came[number] - at for number, at in began.items()]

    try:
        await latencies()  # connections, first turns of everything
        without = p99(await latencies())
        hanging.set()
        during = p99(await latencies())
    finally:
        await producer.stop()
    assert len(came) == len(world.sent) - 80, "the twentieth has hung all the while"
    assert during <= without * 2 + 0.25, f"{without:.3f} s without, {during:.3f} s with one that hangs"
    for engine in world.engines:
        await engine.stop(0)
    world.engines.clear()


async def test_an_endpoint_that_is_down_for_long_gets_everything_in_order_when_it_is_back(world: World) -> None:
    """Its hour is short here: attempts are 100 ms apart, the breaker (`test_sink_operations`) is off."""
    down = True

    def answer(body: dict[str, Any]) -> web.Response:
        return web.Response(status=500 if down else 200)

    world.receiver.answer = answer
    schedule = ",".join(["100ms"] * 300)
    world.put(settings={"url": world.receiver.url, "timeout_s": 5, "retry_schedule": schedule, "breaker": 0})
    await world.engine()
    await world.send([f"c{number % 10}" for number in range(100)])
    # Ten customers' heads, each tried some times: none of what waits behind them has been asked.
    await eventually(lambda: len(world.receiver.hits) >= 80, 60)
    assert {hit.number for hit in world.receiver.hits} == set(range(10))
    await world.send([f"d{number % 10}" for number in range(20)])
    await eventually(lambda: {hit.number for hit in world.receiver.hits} == {*range(10), *range(100, 110)}, 30)
    down = False
    await eventually(lambda: len({hit.number for hit in world.receiver.taken()}) == 120, 90)
    assert world.order() == world.expected()
    assert await world.undeliverable() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_inside_is_not_followed_and_pauses(world: World, status: int) -> None:
    async with Receiver().running() as inside:
        world.receiver.answer = lambda body: web.Response(status=status, headers={"Location": inside.url})
        engine = await world.engine()
        await world.send(["ann"])
        pause = await eventually(lambda: engine.paused.get((world.partner, "hook")))
        assert "redirect" in pause.reason
        assert inside.begun == 0
        assert len(world.receiver.hits) == 1


@asynccontextmanager
async def listening(
    host: str, port: int = 0, answer: bytes = b"", *, breaks: bool = False
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers 200, or ``answer``; its port, and the requests' heads. ``breaks``: it closes after it."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            # One request after the other, until the client has enough: else it may find its connection reset.
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(len(b"{}"))
                writer.write(answer or b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                if breaks:
                    break
        writer.close()

    server = await asyncio.start_server(handle, host, port)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


class _Asked(Names):
    """Counts the questions."""

    def __init__(self, *answers: list[str]) -> None:
        super().__init__(*answers)
        self.questions = 0

    async def resolve(self, *args: Any, **kwargs: Any) -> Any:
        self.questions += 1
        return await super().resolve(*args, **kwargs)


async def test_a_name_that_turns_inside_between_two_questions_never_leads_there() -> None:
    """DNS rebinding. 127.0.0.2 stands for what is outside, 127.0.0.1 for what is inside.

    What was checked is what is connected to: a name is asked once for a connection; and asked again, checked again.
    """
    guard = Guard("127.0.0.2/32")
    async with listening("127.0.0.2") as (port, outside), listening("127.0.0.1", port) as (_, inside):
        names = _Asked(["127.0.0.2"], ["127.0.0.1"])
        request = Request("POST", f"http://shop.example:{port}/", {}, b"{}")
        http = HttpClient(guard, names)
        await http.start()
        try:
            assert (await http.send(request, 5)).status == 200
            assert names.questions == 1
        finally:
            await http.stop()
        again = HttpClient(guard, names)
        await again.start()
        try:
            with pytest.raises(SetupError, match=r"shop\.example"):
                await again.send(request, 5)
        finally:
            await again.stop()
        assert (len(outside), inside) == (1, [])
        # So that this can fail: what is inside does answer whoever may go there.
        free = HttpClient(Guard("127.0.0.1/32"), names)
        await free.start()
        try:
            assert (await free.send(request, 5)).status == 200
        finally:
            await free.stop()
        assert len(inside) == 1


async def test_a_compressed_bomb_stays_compressed() -> None:
    """64 MB of zeros in 64 KB; unpacked, it would show in the process' memory."""
    bomb = gzip.compress(bytes(64 << 20), 9)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    http = HttpClient(Guard("127.0.0.0/8"))
    await http.start()
    try:
        async with listening("127.0.0.1", 0, head + bomb) as (port, heads):
            before = psutil.Process().memory_info().rss
            request = Request("POST", f"http://127.0.0.1:{port}/", {}, b"{}")
            answers = [await http.send(request, 10) for _ in range(20)]
            assert psutil.Process().memory_info().rss - before < 32 << 20
        assert all(answer.status == 200 and answer.body == bomb[:MAX_ANSWER] for answer in answers)
        assert all(b"accept-encoding: identity" in each.lower() for each in heads)
    finally:
        await http.stop()


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    """Its status was 200, but not all of it came: it may have been taken, and is sent again with the same id."""
    http = HttpClient(Guard("127.0.0.0/8"))
    await http.start()
    try:
        async with listening("127.0.0.1", 0, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", breaks=True) as (
            port,
            _,
        ):
            with pytest.raises(NoAnswer) as raised:
                await http.send(Request("POST", f"http://127.0.0.1:{port}/", {}, b"{}"), 5)
        assert raised.value.sent
    finally:
        await http.stop()
