"""The server's front on a real socket, without Kafka: what it answers itself, what it hands on, what it refuses."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import orjson
import pytest
import uvicorn
from eventually import eventually
from gateway_world import COMMANDS, SECRET, Recorder, StandIn, command, state_of
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.control.reducer import ControlState
from pipeline.gateway.app import create_app
from pipeline.gateway.client import Proxies
from pipeline.gateway.door import Door
from pipeline.gateway.front import front_for
from pipeline.gateway.limits import Limits
from pipeline.gateway.role import Server
from pipeline.gateway.tracking import Tracking
from pipeline.stream.producer import Record, Unavailable

OFF = command("source.edit", "rest-id", 1, active=False)
SAFE = b'{"event":"X","userId":"u","writeKey":"acme.safe.%b"}'
BODY = orjson.dumps({"event": "X", "userId": "u", "writeKey": "acme.rest"})


class Slow(Recorder):
    """Acknowledges when it is told to; ``bug``: fails as only our own fault could."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[None]] = []
        self.hold = False
        self.bug = False

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        if self.bug:
            raise RuntimeError("secret detail of ours")
        done = super().write(topic, records)
        if not self.hold:
            return done
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


@dataclass
class Front:
    """A server of the test's own."""

    door: Door
    kafka: Slow
    server: uvicorn.Server
    port: int
    state: ControlState
    told: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.told.append(writer)
        return reader, writer

    async def say(self, *parts: bytes) -> bytes:
        """Everything that is answered to these bytes, to the end of the connection."""
        reader, writer = await self.open()
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    kafka = Slow()
    state = state_of(COMMANDS)
    world = cast(Any, StandIn(state, {"s-1": "new one"}))
    door = Door(Tracking(world, kafka, Limits("test")), Proxies("127.0.0.1"), calls=3)
    config = uvicorn.Config(
        create_app(world, world, kafka),
        http=front_for(door),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        port=0,
        timeout_graceful_shutdown=5,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    made = Front(door, kafka, server, server.servers[0].sockets[0].getsockname()[1], state)
    yield made
    for done in kafka.waiting:
        if not done.done():
            done.set_result(None)
    for writer in made.told:
        writer.close()
    server.should_exit = True
    await serving


def post(body: bytes = BODY, *headers: bytes, path: bytes = b"/v1/track", close: bool = True) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: gateway.test", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, *([b"Connection: close"] if close else []), b"", body])


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1])


def statuses(said: bytes) -> list[int]:
    """Of all answers in what came."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def code(said: bytes) -> str:
    found: str = orjson.loads(said.partition(b"\r\n\r\n")[2])["code"]
    return found


async def test_a_call_is_answered_when_kafka_has_it_and_not_before(front: Front) -> None:
    front.kafka.hold = True
    reader, writer = await front.open()
    writer.write(post(close=False))
    await eventually(lambda: front.kafka.waiting)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    front.kafka.waiting[0].set_result(None)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: application/json\r\n" in head
    assert b"\r\ndate: " in head
    assert await reader.readexactly(16) == b'{"success":true}'
    assert front.kafka.records[0][1].key == b"acme|u|u"


async def test_an_outage_after_the_call_was_taken_is_a_503(front: Front) -> None:
    front.kafka.hold = True
    asked = asyncio.create_task(front.say(post(BODY, b"Origin: https://a.example")))
    await eventually(lambda: front.kafka.waiting)
    front.kafka.waiting[0].set_exception(Unavailable("broker 10.0.0.7 is away"))
    said = await asked
    assert (status(said), code(said)) == (503, "unavailable")
    assert b"retry-after: 5\r\n" in said
    assert b"access-control-allow-origin: https://a.example\r\n" in said
    assert b"10.0.0.7" not in said


async def test_requests_on_top_of_each_other_are_answered_in_order(front: Front) -> None:
    bad = post(b"[]", close=False)
    said = await front.say(
        post(close=False) + bad + post(close=False) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + post()
    )
    assert statuses(said) == [200, 400, 200, 200, 200]
    assert len(front.kafka.records) == 3


def events(front: Front) -> list[Any]:
    return [orjson.loads(record.value or b"") for _, record in front.kafka.records]


async def test_a_head_that_came_before_reads_each_body_by_its_own_length(front: Front) -> None:
    bodies = [orjson.dumps({"event": "X" * size, "userId": "u", "writeKey": "acme.rest"}) for size in (1, 150, 20, 1)]
    said = await front.say(*(post(body, close=False) for body in bodies), post())
    assert statuses(said) == [200] * 5
    assert [event["event"] for event in events(front)] == ["X", "X" * 150, "X" * 20, "X", "X"]


async def test_a_head_that_came_before_says_nothing_of_the_key_in_the_body(front: Front) -> None:
    kept = post(close=False)
    other = post(BODY.replace(b"acme.rest", b"acme.gone"), close=False)
    unknown = post(BODY.replace(b"acme.rest", b"acme.what"), close=False)
    back = post(BODY.replace(b"acme.rest", b"acme.few"))
    said = await front.say(kept + other + kept + unknown + kept + back)
    assert statuses(said) == [200, 403, 200, 401, 200, 200]
    assert [topic for topic, _ in front.kafka.records] == ["raw.acme.rest-id"] * 3 + ["raw.acme.few-id"]


async def test_a_head_that_came_before_is_judged_anew_when_the_source_changes(front: Front) -> None:
    state = front.state
    assert status(await front.say(post())) == 200
    verdict = state.apply(state.offset + 1, 1_790_000_000_000, OFF.to_json())
    assert verdict.status < 300
    assert status(await front.say(post())) == 403
    assert len(front.kafka.records) == 1


async def test_a_head_with_two_lengths_is_refused_also_after_the_same_with_one(front: Front) -> None:
    assert status(await front.say(post())) == 200
    two = post(BODY, b"Content-Length: %d" % len(BODY))
    assert status(await front.say(two)) == 400
    assert status(await front.say(two)) == 400
    assert len(front.kafka.records) == 1


async def test_a_secret_key_is_compared_each_time(front: Front) -> None:
    good = post(SAFE % SECRET.encode(), close=False)
    wrong = post(SAFE % (b"x" * len(SECRET)), close=False)
    said = await front.say(good + wrong + good + wrong + post())
    assert statuses(said) == [200, 401, 200, 401, 200]


async def test_a_request_may_come_a_byte_at_a_time(front: Front) -> None:
    said = await front.say(*(bytes([byte]) for byte in post()))
    assert status(said) == 200


async def test_other_requests_go_to_the_application_and_the_connection_comes_back(front: Front) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{front.port}") as http:
        for _ in range(3):
            assert (await http.get("/healthz")).json() == {"status": "ok"}
            assert len(front.door.fronts) == 1
            assert (await http.post("/v1/t", content=BODY)).json() == {"success": True}
            assert (await http.post("/nowhere", content=b"x" * 100_000)).status_code == 404

        async def pieces() -> AsyncIterator[bytes]:
            yield BODY[:5]
            yield BODY[5:]

        # A chunked body is read by the application, by the same rules.
        assert (await http.post("/v1/track", content=pieces())).json() == {"success": True}
        asked = await http.options("/v1/batch", headers={"origin": "https://shop.example"})
        assert (asked.status_code, asked.headers["access-control-max-age"]) == (204, "3600")
        assert asked.headers["access-control-allow-origin"] == "https://shop.example"
    said = await front.say(
        post(b"", b"Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: %d" % len(BODY)), BODY
    )
    assert said.startswith(b"HTTP/1.1 100 Continue")
    assert b"HTTP/1.1 200 OK" in said
    assert len(front.kafka.records) == 5


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: %d",
        b"Content-Length: %d\r\nContent-Length: 5",
        b"Content-Length: %d, 5",
        b"Content-Length: +%d",
        b"Content-Length: -%d",
        b"Content-Length: %dx",
        b"Content-Length : %d",
        b"Content-Length: %d\r\n Folded: yes",
        b"Content-Length: %d\r\nTransfer-Encoding: xchunked",
        b"Content-Length: %d\nX: y",
        b"Content-Length: %d\r\nX\x00: y",
    ],
)
async def test_what_two_servers_might_read_in_two_ways_is_refused(front: Front, head: bytes) -> None:
    filled = head % len(BODY) if b"%d" in head else head
    said = await front.say(b"POST /v1/track HTTP/1.1\r\nHost: x\r\n" + filled + b"\r\n\r\n" + BODY)
    assert (status(said), code(said)) == (400, "bad_request")
    assert said.count(b"HTTP/1.1") == 1
    assert front.kafka.records == []


async def test_what_is_too_large_is_refused_before_it_is_read(front: Front) -> None:
    flood = b"".join(b"X-%d: y\r\n" % n for n in range(200))
    for said, wanted in (
        (await front.say(b"POST /v1/track HTTP/1.1\r\nX: " + b"y" * 40_000), 431),
        (await front.say(b"POST /v1/track HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n"), 431),
        (await front.say(b"G" * 40_000), 431),
        (await front.say(post(b"x" * 600_000)), 413),
        (await front.say(b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"), 413),
        (await front.say(post(gzip.compress(bytes(50_000_000)))), 413),
    ):
        assert status(said) == wanted
        assert code(said) == "too_large"
    assert front.door.held == 0
    assert front.kafka.records == []


@pytest.mark.parametrize("part", [b"POST /v1/track HTTP/1.1\r\nHo", post()[:-5]])
async def test_who_is_slow_is_told_and_left(front: Front, part: bytes) -> None:
    reader, writer = await front.open()
    writer.write(part)
    await eventually(lambda: any(one.deadline < asyncio.get_running_loop().time() + 40 for one in front.door.fronts))
    front.door.sweep(asyncio.get_running_loop().time() + 40)
    said = await reader.read()
    assert (status(said), code(said)) == (408, "slow")
    # One that says nothing just goes.
    reader, writer = await front.open()
    await eventually(lambda: front.door.fronts)
    front.door.sweep(asyncio.get_running_loop().time() + 100)
    assert await reader.read() == b""
    assert front.door.held == 0


async def test_too_many_at_one_time_are_told_to_come_again(front: Front) -> None:
    front.kafka.hold = True
    asked = [asyncio.create_task(front.say(post())) for _ in range(3)]
    await eventually(lambda: len(front.kafka.waiting) == 3)
    said = await front.say(post())
    assert (status(said), code(said)) == (503, "busy")
    assert b"retry-after: 1\r\n" in said
    for done in front.kafka.waiting:
        done.set_result(None)
    assert [status(each) for each in await asyncio.gather(*asked)] == [200, 200, 200]


async def test_a_client_that_goes_away_leaves_nothing_behind(front: Front) -> None:
    front.kafka.hold = True
    _, writer = await front.open()
    writer.write(post())
    await eventually(lambda: front.kafka.waiting)
    writer.close()
    front.kafka.waiting[0].set_result(None)
    await eventually(lambda: front.door.busy == 0 and not front.door.fronts)
    front.kafka.hold = False
    assert status(await front.say(post())) == 200


async def test_nothing_of_our_own_faults_leaves(front: Front) -> None:
    front.kafka.bug = True
    said = await front.say(post())
    assert (status(said), code(said)) == (500, "internal")
    assert b"secret detail" not in said
    assert b"Traceback" not in said


async def test_the_clients_address_is_believed_from_a_proxy_that_we_trust(front: Front) -> None:
    await front.say(post(BODY, b"X-Forwarded-For: 198.51.100.1, 203.0.113.77", b"User-Agent: Probe"))
    await front.say(post(BODY, b"X-Forwarded-For: 203.0.113.77", b"X-IP-Policy: remove_last_octet", b"Sec-GPC: 1"))
    await front.say(post(BODY, b"X-IP-Policy: remove"))
    first, second, third = (dict(record.headers) for _, record in front.kafka.records)
    assert (first["headrace_ip"], first["headrace_ua"]) == (b"203.0.113.77", b"Probe")
    assert "headrace_gpc" not in first
    assert (second["headrace_ip"], second["headrace_gpc"]) == (b"203.0.113.0", b"1")
    assert "headrace_ip" not in third


async def test_the_end_answers_what_is_at_hand(front: Front) -> None:
    front.kafka.hold = True
    _, idle = await front.open()
    asked = asyncio.create_task(front.say(post(close=False)))
    await eventually(lambda: front.kafka.waiting)
    front.server.should_exit = True
    await eventually(lambda: idle.is_closing() or idle.transport.is_closing() or len(front.door.fronts) == 1)
    front.kafka.waiting[0].set_result(None)
    said = await asked
    assert status(said) == 200
    assert b"connection: close\r\n" in said


@example([post(close=False), post(close=False), b"\0"])
@given(
    st.lists(
        st.one_of(st.binary(max_size=60), st.sampled_from([post(close=False), b"\r\n\r\n", b"GET / HTTP/1.1\r\n"]))
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
async def test_no_bytes_make_a_500_or_a_hang(front: Front, parts: list[bytes]) -> None:
    reader, writer = await front.open()
    for part in parts:
        writer.write(part)
    writer.write_eof()
    async with asyncio.timeout(10):
        said = await reader.read()
    writer.close()
    assert set(statuses(said)) <= {200, 400, 404, 405, 408, 413, 431}
