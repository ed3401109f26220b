"""How soon what was posted is counted, and how quickly a count is answered: all roles as processes, under load."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from pipeline.bench.gateway import free_port
from pipeline.bench.segments_input import NAME, Traffic
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.supervisor import Supervisor

__all__ = ["PROBE", "Seen", "seen"]

#: Of the load, in batches of `_BATCH`.
PER_SECOND = 1_000
_BATCH = 50
#: The event that enters the segment of the same name.
PROBE = "Probe"
_READY_S = 90.0
_WARM_S = 5.0
_ROLES = {
    "gateway": ["gateway"],
    "intake": ["worker", "--roles", "intake"],
    "fanout": ["worker", "--roles", "fanout"],
    "api": ["api"],
}


@dataclass(frozen=True)
class Seen:
    """p50 and p99, in seconds: from the answer 200 to the count by HTTP; of a question for counts, ``beside`` the load
    and with none.
    """

    visible: tuple[float, float]
    beside: tuple[float, float]
    counts: tuple[float, float]


async def seen(kafka: Kafka, settings: Settings, traffic: Traffic, probes: int, questions: int) -> Seen:
    """Events of ``traffic`` by HTTP meanwhile, a thousand a second; the segment ``probe`` is there."""
    async with _everything(kafka, settings) as (gateway, api), aiohttp.ClientSession() as session:

        async def asked() -> tuple[float, float]:
            names = (f"s{number % traffic.segments}" for number in range(questions))
            return _percentiles([(await _ask(session, api, traffic.partner, name))[0] for name in names])

        loading = asyncio.create_task(_load(session, gateway, traffic), name="bench load")
        try:
            await asyncio.sleep(_WARM_S)
            visible = [await _probe(session, gateway, api, traffic.partner, n + 1) for n in range(probes)]
            beside = await asked()
            if loading.done():
                loading.result()
        finally:
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
        await asyncio.sleep(_WARM_S)
        return Seen(_percentiles(visible), beside, await asked())


def _percentiles(taken: list[float]) -> tuple[float, float]:
    taken = sorted(taken)
    return taken[len(taken) // 2], taken[int(0.99 * (len(taken) - 1))]


async def _probe(session: aiohttp.ClientSession, gateway: str, api: str, partner: str, number: int) -> float:
    """One customer more: from the answer until the count is ``number``."""
    body = {"event": PROBE, "userId": f"probe-{number}", "messageId": uuid.uuid4().hex, "writeKey": f"{partner}.web"}
    async with session.post(f"{gateway}/v1/track", data=orjson.dumps(body)) as answer:
        if answer.status != 200:
            raise RuntimeError(await answer.text())
    began = time.perf_counter()
    deadline = began + 60
    while (await _ask(session, api, partner, PROBE.lower()))[1] < number:
        if time.perf_counter() > deadline:
            raise TimeoutError("an event was not counted within 60 s")
        await asyncio.sleep(0.005)
    return time.perf_counter() - began


async def _ask(session: aiohttp.ClientSession, api: str, partner: str, segment: str) -> tuple[float, int]:
    """How long the answer took, and how many there are."""
    began = time.perf_counter()
    async with session.get(f"{api}/v1/partners/{partner}/segments/{segment}/counts") as answer:
        found = orjson.loads(await answer.read())
        if answer.status != 200:
            raise RuntimeError(str(found))
    return time.perf_counter() - began, int(found["total"]["customers"])


async def _load(session: aiohttp.ClientSession, gateway: str, traffic: Traffic) -> None:
    """Events of known customers, at their pace whatever the answers take."""
    first = 0
    began = time.perf_counter()
    while True:
        batch: list[dict[str, Any]] = []
        for number in range(first, first + _BATCH):
            customer = number * 7919 % traffic.customers
            properties = {"category": f"c{traffic.category(customer, number % 8)}", "price": 19.5}
            who = {"userId": f"user-{customer}", "messageId": f"l{number}"}
            batch.append({"type": "track", "event": NAME, "properties": properties} | who)
        first += _BATCH
        body = orjson.dumps({"writeKey": f"{traffic.partner}.app", "batch": batch})
        async with session.post(f"{gateway}/v1/batch", data=body) as answer:
            if answer.status != 200:
                raise RuntimeError(await answer.text())
        await asyncio.sleep(max(0.0, began + first / PER_SECOND - time.perf_counter()))


@asynccontextmanager
async def _everything(kafka: Kafka, settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """The roles for the time of a block; the addresses of gateway and API."""
    ports = {"gateway": free_port(), "api": free_port()}
    supervisor = Supervisor(
        {
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "HEADRACE_DATA_DIR": str(settings.data_dir),
            "HEADRACE_LANES": str(settings.lanes),
            "HEADRACE_GATEWAY_PORT": str(ports["gateway"]),
            "HEADRACE_API_PORT": str(ports["api"]),
            "HEADRACE_LOG_LEVEL": "WARNING",
        }
    )
    doors = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    try:
        for name, words in _ROLES.items():
            await supervisor.start(name, [sys.executable, "-m", "pipeline.cli.main", *words])
        deadline = time.perf_counter() + _READY_S
        async with aiohttp.ClientSession() as session:
            for name, door in doors.items():
                while not await _ready(session, door):
                    if time.perf_counter() > deadline:
                        raise TimeoutError(f"the {name} was not ready within {_READY_S:g} s")
                    await asyncio.sleep(0.1)
        yield doors["gateway"], doors["api"]
    finally:
        await supervisor.stop()


async def _ready(session: aiohttp.ClientSession, door: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with session.get(f"{door}/readyz") as answer:
            return answer.status == 200
    return False
