"""Where sinks may not connect to, by address, by name, and on the wire."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver
from sinks_world import Receiver

from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.guard import Guard
from pipeline.sinks.http import MAX_ANSWER, Answer, HttpClient, NoAnswer

REFUSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
    "1.2.3",
    "2130706433",
]
ALLOWED = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700::1",
    "2a00::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address: str) -> None:
    assert not Guard().allows(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_allowed(address: str) -> None:
    assert Guard().allows(address)


def test_own_networks_can_be_let_through() -> None:
    guard = Guard("10.1.0.0/16, ::1/128")
    assert [guard.allows(a) for a in ("10.1.2.3", "::1", "10.2.0.1", "127.0.0.1")] == [True, True, False, False]
    with pytest.raises(ValueError, match="HEADRACE_ALLOW_NETWORKS"):
        Guard("10.1.0.0/33")


class Names(AbstractResolver):
    """A DNS in the tests' hand: each question gets the next of the answers."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
        return [
            {"hostname": host, "host": a, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for a in (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        ]

    async def close(self) -> None:
        pass


async def send(url: str, guard: Guard, names: AbstractResolver | None = None) -> Answer:
    http = HttpClient(guard, names)
    await http.start()
    try:
        return await http.send(Request("POST", url, {}, b"{}"), 5)
    finally:
        await http.stop()


async def test_a_name_that_leads_inside_is_refused_before_a_connection() -> None:
    async with Receiver().running() as receiver:
        port = receiver.url.split(":")[2]
        for names in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"]):
            with pytest.raises(SetupError, match=r"shop\.example"):
                await send(f"http://shop.example:{port}", Guard(), Names(names))
        assert receiver.begun == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1", "localhost", "0"]
)
async def test_every_way_to_write_loopback_is_refused(host: str) -> None:
    async with Receiver().running() as receiver:
        with pytest.raises((SetupError, NoAnswer)):
            await send(f"http://{host}:{receiver.url.split(':')[2]}", Guard())
        assert receiver.begun == 0


async def test_a_long_or_endless_answer_is_cut_and_its_connection_closed() -> None:
    sent, closed = [0], asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while sent[0] < 64 << 20:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                sent[0] += 65536
        except ConnectionError:
            pass
        closed.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    http = HttpClient(Guard("127.0.0.0/8"))
    await http.start()
    try:
        answer = await http.send(Request("POST", f"http://127.0.0.1:{port}/", {}, b"{}"), 20)
        assert (answer.status, len(answer.body)) == (200, MAX_ANSWER)
        await asyncio.wait_for(closed.wait(), 10)
        assert sent[0] < 16 << 20, "the rest was not read"
    finally:
        await http.stop()
        server.close()
