"""Tracked links and pixels at the gateway: they lead on whatever happens, and what happened is recorded or counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
import pytest
from eventually import eventually
from frozen import frozen
from gateway_world import COMMANDS, Recorder, StandIn, command, state_of
from records import make_topic, read_all

from pipeline.agents.judge import judge
from pipeline.bridges.link_token import Tracked, sign
from pipeline.bridges.links import PIXEL
from pipeline.broker.embedded import EmbeddedBroker
from pipeline.control.secrets import SecretError
from pipeline.gateway.app import create_app
from pipeline.gateway.hits import Hits
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka
from pipeline.stream.producer import BufferFull, Producer, Record, RecordRefused, Unavailable

SECRET = b"links secret"
URL = "https://shop.example/spring?x=1#y"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
#: Sources `mail` (links), `quiet` (links, switched off), `done` (links, removed).
WORLD = [
    *COMMANDS,
    command("source.create", id="mail", name="Mail", code="mail", bridge="links", secret="s-2", domain="shop.example"),
    command("source.create", id="quiet", name="Quiet", code="quiet", bridge="links", secret="s-2"),
    command("source.edit", "quiet", 1, active=False),
    command("source.create", id="done", name="Done", code="done", bridge="links", secret="s-2"),
    command("source.remove", "done", 1),
]


class Keeper(StandIn):
    """Forgets as the real one does."""

    def get(self, name: str) -> str:
        try:
            return super().get(name)
        except KeyError:
            raise SecretError(f"no secret {name}") from None


def world() -> Any:
    return Keeper(state_of(WORLD), {"s-1": "x", "s-2": f"newer\n{SECRET.decode()}\n"})


def link(source: str = "mail", url: str | None = URL, secret: bytes = SECRET) -> str:
    token = sign(Tracked("acme", source, url, "header", "spring", "u", "u-1"), secret)
    return f"/o/{token}.gif" if url is None else f"/l/{token}"


def client(producer: Any, folder: Path) -> httpx.AsyncClient:
    app = create_app(world(), world(), producer, Settings(data_dir=folder))
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway.test", headers={"user-agent": FIREFOX})


async def fates(http: httpx.AsyncClient) -> dict[str, int]:
    lines = [line.split() for line in (await http.get("/metrics")).text.splitlines() if line[:1] != "#"]
    found = {name.partition('"')[2].partition('"')[0] or "bytes": int(value) for name, value in lines}
    return {name: value for name, value in found.items() if value}


@pytest.fixture
def kafka_side() -> Recorder:
    return Recorder()


@pytest.fixture
async def http(kafka_side: Recorder, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client(kafka_side, tmp_path) as made:
        yield made


async def test_a_click_is_recorded_and_leads_on(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    answer = await http.get(link(), headers={"referer": "https://mail.example/inbox"})
    assert (answer.status_code, answer.headers["location"], answer.content) == (302, URL, b"")
    assert "no-store" in answer.headers["cache-control"]
    [(topic, record)] = kafka_side.records
    assert (topic, record.key) == ("raw.acme.mail", b"acme|u|u-1")
    assert orjson.loads(record.value or b"")["event"] == "Link Clicked"
    known = dict(record.headers)
    assert (known["headrace_bridge"], known["headrace_ip"]) == (b"links", b"203.0.113.9")
    # Mail is read anywhere: the source's domain is not asked for.
    assert "headrace_origin" not in known
    assert "headrace_flags" not in known
    assert await fates(http) == {"recorded": 1}


async def test_an_open_is_a_gif_that_nobody_keeps(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    answer = await http.get(link(url=None))
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, PIXEL, "image/gif")
    assert "no-store" in answer.headers["cache-control"]
    assert orjson.loads(kafka_side.records[0][1].value or b"")["event"] == "Email Opened"


async def test_machines_are_told_by_a_flag(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    assert (await http.head(link())).status_code == 302
    assert (await http.get(link(), headers={"sec-purpose": "prefetch"})).status_code == 302
    assert (await http.get(link(url=None), headers={"user-agent": "GoogleImageProxy"})).status_code == 200
    flags = [dict(record.headers)["headrace_flags"] for _, record in kafka_side.records]
    assert flags == [b"machine:head", b"machine:prefetch", b"proxy:google-image-proxy"]
    # Intake keeps them among the event's flags.
    source = state_of(WORLD).sources["acme", "mail"]
    for (_, record), flag in zip(kafka_side.records, flags, strict=True):
        now = int(time.time() * 1000)
        _, event = judge(source, record.value, record.headers, appended=now, control=1, fallback_id="x")
        assert flag.decode() in orjson.loads(event)["flags"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (link(secret=b"guessed"), 404),
        (link(source="web-id"), 404),
        (link(source="nobody"), 404),
        (link()[:-2], 404),
        ("/l/x", 404),
        ("/l/" + "A" * 5000, 404),
        (link(source="done"), 410),
    ],
)
async def test_nothing_leads_where_nobody_signed(
    http: httpx.AsyncClient, kafka_side: Recorder, path: str, status: int
) -> None:
    answer = await http.get(path)
    assert answer.status_code == status
    assert "location" not in answer.headers
    assert answer.headers["content-type"].startswith("text/plain")
    # A mail shows no broken image, whatever its pixel is.
    pixel = await http.get("/o/" + path.removeprefix("/l/") + ".gif")
    assert (pixel.status_code, pixel.content) == (200, PIXEL)
    assert kafka_side.records == []


async def test_the_token_of_a_pixel_is_no_link(http: httpx.AsyncClient) -> None:
    assert (await http.get(link(url=None).replace("/o/", "/l/").removesuffix(".gif"))).status_code == 404


async def test_a_source_that_is_off_leads_on_and_records_nothing(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    assert (await http.get(link(source="quiet"))).headers["location"] == URL
    assert (await http.get(link(source="quiet", url=None))).content == PIXEL
    assert kafka_side.records == []
    assert await fates(http) == {"off": 2}


@pytest.mark.parametrize("error", [Unavailable("away"), BufferFull("full")])
async def test_what_kafka_does_not_take_waits_on_disk_and_is_sent_when_it_does(
    http: httpx.AsyncClient, kafka_side: Recorder, error: Any
) -> None:
    kafka_side.error = error
    for _ in range(3):
        assert (await http.get(link())).headers["location"] == URL
    assert (await fates(http))["spooled"] == 3
    kafka_side.error = None
    await eventually(lambda: len(kafka_side.records) == 3)
    assert len({dict(record.headers)["ce_id"] for _, record in kafka_side.records}) == 3

    async def done() -> bool:
        return await fates(http) == {"recorded": 3, "spooled": 3}

    await eventually(done)


@pytest.mark.parametrize("error", [RecordRefused("never"), cast(Any, RuntimeError("a bug of ours"))])
async def test_what_is_never_taken_is_counted_as_lost_and_leads_on(
    http: httpx.AsyncClient, kafka_side: Recorder, error: Any
) -> None:
    kafka_side.error = error
    assert (await http.get(link())).headers["location"] == URL
    assert (await fates(http)).get("lost", 0) + (await fates(http)).get("spooled", 0) == 1


class Stuck(Recorder):
    """Takes what it is given, and never hears of it again."""

    def write(self, topic: str, records: Sequence[Record]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async def answers(self, timeout_s: float = 2.0) -> bool:
        return False


async def test_one_reader_waits_for_a_broker_that_hangs_and_no_other(tmp_path: Path) -> None:
    hits = Hits(cast(Any, Stuck()), tmp_path, wait_s=0.05)
    record = Record(b"key", b"value", [("ce_id", b"1")])
    async with asyncio.timeout(10):
        await hits.record("raw.acme.mail", [record])
    # From now on not even the loop is waited for.
    for _ in range(3):
        with pytest.raises(StopIteration):
            hits.record("raw.acme.mail", [record]).send(None)
    assert hits.counts["spooled"] == 4
    assert hits._draining is not None
    hits._draining.cancel()


async def test_the_disk_is_bounded_and_what_is_too_much_is_counted(tmp_path: Path, kafka_side: Recorder) -> None:
    kafka_side.error = Unavailable("away")
    hits = Hits(cast(Any, kafka_side), tmp_path, limit=1000)
    record = Record(b"key", b"x" * 300, [("ce_id", b"1")])
    for _ in range(10):
        await hits.record("raw.acme.mail", [record])
    assert hits.counts["spooled"] == 2
    assert hits.counts["lost"] == 8
    assert hits.spooled_bytes <= 1000
    kafka_side.error = None
    await eventually(lambda: hits.counts["recorded"] == 2)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_written_costs_the_record_alone(tmp_path: Path, kafka_side: Recorder) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    kafka_side.error = Unavailable("away")
    async with client(kafka_side, tmp_path) as http:
        assert (await http.get(link())).headers["location"] == URL
        assert await fates(http) == {"lost": 1}


async def test_what_a_killed_process_left_is_sent_by_the_next_and_half_a_line_is_none(
    tmp_path: Path, kafka_side: Recorder
) -> None:
    kafka_side.error = Unavailable("away")
    first = Hits(cast(Any, kafka_side), tmp_path)
    await first.record("raw.acme.mail", [Record(b"k", b"v", [("ce_id", b"1")])])
    assert first._file is not None
    first._file.write(b'{"topic": "raw.acme.mail", "rec')
    first._file.close()  # as the end of a process does, the lock with it
    assert first._draining is not None
    first._draining.cancel()
    kafka_side.error = None
    second = Hits(cast(Any, kafka_side), tmp_path)
    second.resume()
    await eventually(lambda: kafka_side.records == [("raw.acme.mail", Record(b"k", b"v", [("ce_id", b"1")]))])
    await eventually(lambda: second.counts["lost"] == 1 and not second.spooled_bytes)


@pytest.mark.slow
@pytest.mark.kafka
async def test_with_a_broker_that_hangs_and_one_that_is_stopped_every_click_leads_on_and_none_is_lost(
    broker_factory: Callable[..., EmbeddedBroker], tmp_path: Path
) -> None:
    topic = "raw.acme.mail"
    clicked = 0
    slowest: list[float] = []

    async def click(http: httpx.AsyncClient, times: int) -> None:
        nonlocal clicked
        for _ in range(times):
            started = time.perf_counter()
            answer = await http.get(link())
            slowest.append(time.perf_counter() - started)
            assert answer.headers["location"] == URL
            clicked += 1

    broker = broker_factory()
    with broker:
        kafka = Kafka(broker.bootstrap_servers)
        await make_topic(kafka, topic, 4)
        producer = Producer(kafka, timeout_ms=3000)
        await producer.start()
        async with client(producer, tmp_path) as http:
            await click(http, 20)
            with frozen(broker):
                slowest.clear()
                await asyncio.gather(*(click(http, 10) for _ in range(10)))
                assert max(slowest) < 2.5, "the producer itself gives up after 3 s: nobody waited for that"

            async def sent() -> bool:
                found = await fates(http)
                return "bytes" not in found and found["recorded"] >= clicked

            await eventually(sent, 60)
            await click(http, 5)
            port = int(broker.bootstrap_servers.rpartition(":")[2])
            broker.stop()
            slowest.clear()
            await click(http, 20)
            assert max(slowest) < 2.5
            assert (await fates(http))["bytes"] > 0
            with broker_factory(port=port):
                await eventually(sent, 60)
                records = await read_all(kafka, topic)
                # Some may be there twice, and count once.
                assert len({dict(record.headers)["ce_id"] for record in records}) == clicked
        await producer.stop()
