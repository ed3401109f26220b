"""Tools that keep, through the real engine: what they have afterwards, and what the delivery log says of it."""

from __future__ import annotations

import asyncio
import email
import imaplib
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pyarrow.parquet as pq
import pytest
from eventually import eventually
from feeds.greenmail import PASSWORD, greenmail
from moto.server import ThreadedMotoServer
from postgres_server import postgres_server
from sinks_world import World
from tool_world import dispatch

from pipeline.sinks import parquet
from pipeline.sinks.rows import parquet_of

pytestmark = pytest.mark.kafka

CUSTOMERS = [f"customer {n}" for n in range(40)]


async def told(world: World, kind: str, settings: dict[str, Any], secret: str | None = None) -> list[dict[str, Any]]:
    """Have the engine tell a tool of each customer once; the delivery log, when all are done."""
    if secret is not None:
        world.secrets["store"] = secret
    world.put("store", kind=kind, settings=settings, secret=None if secret is None else "store")
    await world.engine()
    await world.send(CUSTOMERS, "store")

    async def logged() -> list[dict[str, Any]]:
        found = [entry for entry in await world.deliveries() if entry["integration"] == "store"]
        assert len({entry["id"] for entry in found if entry["outcome"] == "ok"}) == len(CUSTOMERS), found[-1:]
        return found

    log = await eventually(logged)
    assert Counter(entry["outcome"] for entry in log) == {"ok": len(CUSTOMERS)}
    assert await world.undeliverable("store") == []
    assert secret is None or secret not in str(log)
    return log


def ids(world: World) -> list[str]:
    return sorted(f"{world.partner}-{n}" for n in range(len(CUSTOMERS)))


async def test_files_are_those_that_the_log_names(world: World, tmp_path: Path) -> None:
    world.settings = world.settings.model_copy(update={"allow_folders": str(tmp_path)})
    log = await told(world, "parquet", {"folder": str(tmp_path / "told"), "linger_ms": 300})
    files = {str(path.relative_to(tmp_path / "told")) for path in (tmp_path / "told").rglob("*.parquet")}
    assert {entry["request"]["name"] for entry in log} == files
    assert len(files) < len(CUSTOMERS)
    rows = [row for name in files for row in pq.read_table(tmp_path / "told" / name).to_pylist()]
    assert sorted(row["id"] for row in rows) == ids(world)
    for entry in log:
        table = pq.read_table(tmp_path / "told" / entry["request"]["name"])
        assert entry["id"] in table["id"].to_pylist()
        assert entry["request"]["body"].startswith(f"{table.num_rows} rows")


async def test_objects_are_those_that_the_log_names(world: World) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        access = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **access)
        client.create_bucket(Bucket="logged")
        settings = {"bucket": "logged", "endpoint": endpoint, "key": "AKID", "prefix": "a=b/", "linger_ms": 300}
        log = await told(world, "s3", settings, "a/secret+access=key")
        keys = {found["Key"] for found in client.list_objects_v2(Bucket="logged")["Contents"]}
        assert {entry["request"]["url"] for entry in log} == {
            f"{endpoint}/logged/{key.replace('=', '%3D')}" for key in keys
        }
        assert {entry["request"]["headers"]["authorization"] for entry in log} == {"***"}
    finally:
        server.stop()


async def test_rows_stand_in_postgresql(world: World, tmp_path: Path) -> None:
    with postgres_server(tmp_path) as address:
        port = urlsplit(address).port
        settings = {"host": "127.0.0.1", "port": port, "database": "postgres", "user": "headrace"}
        log = await told(world, "postgres", settings | {"sslmode": "disable"}, "a password")
        with psycopg.connect(address) as connection:
            rows = connection.execute("SELECT id FROM headrace_events ORDER BY id").fetchall()
        assert sorted(row[0] for row in rows) == ids(world)
        # Of a batch each sees its own row and nobody else's.
        for entry in log:
            assert entry["id"] in entry["request"]["body"]
            assert entry["request"]["body"].count('"customer_id"') == 1


async def test_mails_arrive(world: World, tmp_path: Path) -> None:
    with greenmail(tmp_path) as server:
        settings = {"host": "127.0.0.1", "port": server.smtp, "tls": "none", "from": "shop@shop.example"}
        settings |= {"subject": "{$.name}", "text": "{$.event.properties.n}"}
        await told(world, "smtp", settings | {"mapping": {"email": "shop@localhost"}})

        def seen() -> set[str]:
            with imaplib.IMAP4("127.0.0.1", server.imap) as box:
                box.login("shop", PASSWORD)
                box.select()
                _, found = box.search(None, "ALL")
                raw = [box.fetch(number, "(RFC822)")[1][0][1] for number in found[0].split()]  # type: ignore[index]
            return {str(email.message_from_bytes(each)["Message-ID"]) for each in raw}  # type: ignore[arg-type]

        assert await asyncio.to_thread(seen) == {f"<{each}@shop.example>" for each in ids(world)}


async def test_a_file_in_the_making_holds_up_nobody_else(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop, which has all tools to see to, goes on meanwhile."""
    began, went_on = threading.Event(), threading.Event()

    def slowly(rows: Sequence[bytes]) -> bytes:
        began.set()
        assert went_on.wait(30), "the loop waits for the file"
        return parquet_of(rows)

    monkeypatch.setattr(parquet, "parquet_of", slowly)
    world.settings = world.settings.model_copy(update={"allow_folders": str(tmp_path)})
    telling = asyncio.create_task(told(world, "parquet", {"folder": str(tmp_path / "told"), "linger_ms": 300}))
    await eventually(began.is_set)
    went_on.set()
    await telling


async def test_the_log_of_a_full_batch_is_of_one_request(world: World, tmp_path: Path) -> None:
    """Made anew for each record, thousands of files would be made to be shown."""
    world.settings = world.settings.model_copy(update={"allow_folders": str(tmp_path)})
    engine = await world.engine()
    world.put("store", kind="parquet", settings={"folder": str(tmp_path / "told")}, secret=None)
    await world.make_topics("store")
    await eventually(lambda: (world.partner, "store") in engine._outlets)
    asker = engine._outlets[world.partner, "store"]._asker
    records = [dispatch(id=f"{n:032}") for n in range(3_000)]
    attempts = await asyncio.gather(*(asker.ask(record) for record in records))
    assert {attempt.result.outcome for attempt in attempts} == {"ok"}
    assert len({id(attempt.request) for attempt in attempts}) == len(list(tmp_path.rglob("*.parquet"))) < 5
