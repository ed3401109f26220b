"""A file of customers through the command, gateway processes and a real Kafka, killed at any moment and run again."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiokafka.errors import TopicAlreadyExistsError
from control_topics import make_control_topics
from eventually import eventually
from records import make_topic, read_all

from pipeline.control.log import ControlLog
from pipeline.gateway.keys import digest
from pipeline.models.control import Command
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka

SECRET = "s" * 32


@dataclass
class Uploads:
    """A source for customers, a gateway process on a port of its own, and the command."""

    kafka: Kafka
    source: str
    topic: str
    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "HEADRACE_GATEWAY_PORT": str(self.port),
            "HEADRACE_DATA_DIR": str(self.folder / "data"),
            "HEADRACE_SOURCE_SECRET": SECRET,
        }
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", *words], env=environment, stdout=subprocess.PIPE, stderr=log
        )
        self.processes.append(process)
        return process

    async def gateway(self) -> subprocess.Popen[bytes]:
        """Start one, and wait for it."""
        process = self._start("gateway")

        async def ready() -> bool:
            with suppress(httpx.TransportError):
                async with httpx.AsyncClient() as client:
                    return (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200
            return False

        await eventually(ready, 60, what="a gateway that is ready")
        return process

    def upload(self, file: Path, *more: str) -> subprocess.Popen[bytes]:
        """Begin an upload."""
        address = f"http://127.0.0.1:{self.port}"
        return self._start("crm", "upload", str(file), "--source", self.source, "--gateway", address, "--json", *more)

    async def result(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """What it printed in the end."""
        out, _ = await asyncio.to_thread(process.communicate, None, 120)
        assert process.returncode == 0, (self.folder / f"{self.processes.index(process)}.log").read_text()
        found: dict[str, Any] = json.loads(out)
        return found

    async def recorded(self) -> Counter[str]:
        """How often each message id stands on the raw topic."""
        return Counter(dict(record.headers)["ce_id"].decode() for record in await read_all(self.kafka, self.topic))


@pytest.fixture
async def uploads(kafka: Kafka, prefix: str, tmp_path: Path) -> AsyncIterator[Uploads]:
    await make_control_topics(kafka)
    with suppress(TopicAlreadyExistsError):
        await make_topic(kafka, "crm.uploads", 1, **{"cleanup.policy": "compact"})
    control = ControlLog(kafka)
    await control.start()
    try:
        key = {"id": "key", "name": "Key", "hash": digest(SECRET)}
        for verb, entity, expect, data in (
            ("partner.create", None, None, {"id": prefix, "name": "Test"}),
            ("source.create", None, None, {"id": "crm-id", "name": "CRM", "code": "crm", "bridge": "crm"}),
            ("source.add_key", "crm-id", 1, key),
        ):
            command = Command(
                id=os.urandom(8).hex(), command=verb, partner=prefix, entity=entity, expect=expect, data=data
            )
            verdict = await control.submit(command)
            assert verdict.status < 300, verdict
    finally:
        await control.stop()
    topic = f"raw.{prefix}.crm-id"
    await make_topic(kafka, topic, 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Uploads(kafka, f"{prefix}.crm", topic, tmp_path, port)
    yield made
    for process in made.processes:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.slow
async def test_a_file_survives_kill_9_of_the_gateway_and_of_the_command_and_adds_nothing_the_second_time(
    uploads: Uploads,
) -> None:
    number = 40_000
    bad = {row for row in range(1, number + 1) if row % 997 == 0}
    file = uploads.folder / "customers.csv.gz"
    with gzip.open(file, "wt", newline="", encoding="utf-8") as out:
        table = csv.writer(out, delimiter=";")
        table.writerow(["Customer ID", "E-mail", "Note", "Plan"])
        for row in range(1, number + 1):
            id = "" if row in bad else row
            table.writerow([id, "" if row in bad else f"c{row}@shop.example", f'line\n"{row}"; é', "pro"])

    async def half(least: int) -> bool:
        return len(await uploads.recorded()) >= least

    gateway = await uploads.gateway()
    command = uploads.upload(file)
    await eventually(lambda: half(5_000), 60, what="a part of it on the topic")
    gateway.send_signal(signal.SIGKILL)
    gateway.wait(30)
    assert command.poll() is None
    await uploads.gateway()
    await eventually(lambda: half(12_000), 60, what="more of it on the topic")
    command.send_signal(signal.SIGKILL)
    command.wait(30)
    assert len(await uploads.recorded()) < number - len(bad)

    report = uploads.folder / "refused.csv"
    first = await uploads.result(uploads.upload(file, "--report", str(report)))
    assert (first["rows"], first["taken"], first["refused"]) == (number, number - len(bad), len(bad))
    assert first["complete"]
    assert first["sent"] < number
    upload = first["id"][:32]
    recorded = await uploads.recorded()
    assert recorded.keys() == {f"{upload}:{row}" for row in range(1, number + 1) if row not in bad}
    with report.open(newline="") as told:
        rows = list(csv.DictReader(told))
    assert {int(row["row"]) for row in rows} == bad
    assert {(row["column"], row["code"]) for row in rows} == {("id", "no_identity")}
    value = orjson.loads(next(r for r in await read_all(uploads.kafka, uploads.topic) if r.key.endswith(b"|7")).value)
    assert value["traits"] == {"email": "c7@shop.example", "Note": 'line\n"7"; é', "Plan": "pro"}

    second = await uploads.result(uploads.upload(file))
    assert (second["sent"], second["taken"], second["refused"]) == (0, first["taken"], first["refused"])
    assert await uploads.recorded() == recorded


async def test_every_kind_of_file_and_every_row_that_is_none(uploads: Uploads) -> None:
    await uploads.gateway()
    lines: list[dict[str, Any]] = [{"id": f"j{n}", "traits": {"n": n}} for n in range(3)]
    lines += [{"id": {}}, {"id": "last"}]
    texts = [*map(json.dumps, lines[:3]), "", "not json", "[1]", *map(json.dumps, lines[3:])]
    ndjson = "\n".join(texts)
    table = "id,email\nu1,a@b.example\nu2\nu3,c@d.example,more\n\xff,x@y.example\n".encode("latin-1")
    utf16 = "\ufeffid\tname\nå1\tÅsa\n".encode("utf-16-le")
    files = {"a.ndjson": ndjson.encode(), "b.csv": table, "c.txt": utf16, "d.csv": b"\xef\xbb\xbfid|x\nmark|1\n"}
    refused: dict[str, Any] = {}
    for name, content in files.items():
        (uploads.folder / name).write_bytes(content)
        report = uploads.folder / f"{name}.report"
        await uploads.result(uploads.upload(uploads.folder / name, "--report", str(report)))
        refused[name] = [(row["row"], row["code"]) for row in map(json.loads, report.read_text().splitlines())]
    assert refused == {
        "a.ndjson": [(4, "not_read"), (5, "not_read"), (6, "shape")],
        "b.csv": [(3, "not_read"), (4, "not_read")],
        "c.txt": [],
        "d.csv": [],
    }
    ids = {orjson.loads(record.value)["userId"] for record in await read_all(uploads.kafka, uploads.topic)}
    assert ids == {"j0", "j1", "j2", "last", "u1", "u2", "å1", "mark"}


async def test_parts_may_come_in_any_order_cut_anywhere_and_again(uploads: Uploads) -> None:
    await uploads.gateway()
    rng = random.Random(5)
    url = f"http://127.0.0.1:{uploads.port}/v1/crm/{uploads.source.replace('.', '/')}/uploads/{'ab' * 32}"
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {uploads.source}.{SECRET}"}, timeout=30) as client:
        missing = await client.get(url)
        assert missing.status_code == 404
        cuts = [(first, first + rng.randint(0, 30)) for first in rng.sample(range(1, 200), 60)] + [(1, 230)]
        for first, last in cuts:
            rows = [{"id": f"c{n}"} if n % 10 else {} for n in range(first, last + 1)]
            answer = await client.post(
                f"{url}/rows", content=gzip.compress(orjson.dumps({"first": first, "rows": rows}))
            )
            assert answer.status_code == 200, answer.text
        told = (await client.put(url, json={"name": "x", "rows": 230})).json()
        assert (told["taken"], told["refused"], told["complete"], told["done"]) == (207, 23, True, [[1, 230]])
        assert set((await uploads.recorded()).values()) == {1}
        refused = [orjson.loads(line)["row"] for line in (await client.get(f"{url}/refused")).text.splitlines()]
        assert sorted(refused) == list(range(10, 231, 10))
        for wrong in (b"{}", b"[]", b'{"first":0,"rows":[{}]}', orjson.dumps({"first": 1, "rows": [{}] * 2001})):
            assert (await client.post(f"{url}/rows", content=wrong)).status_code == 400
        assert (await client.get(url.replace("ab", "AB"))).status_code == 400
        client.headers["authorization"] += "x"
        assert (await client.get(url)).status_code == 401
