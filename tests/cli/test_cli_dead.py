"""`headrace dead` on a real broker: what people type, and what they are told."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import TopicPartition
from eventually import eventually
from parked import failing_role, park, produce
from records import read_all
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.stream.dead_letters import REDRIVEN
from pipeline.stream.kafka import Kafka

Run = Callable[..., Awaitable[Result]]


def environment(kafka: Kafka) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


@pytest.fixture
def run(kafka: Kafka) -> Run:
    """`headrace dead` with these arguments; in a thread, since the command has a loop of its own."""

    async def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["dead", *arguments], env=environment(kafka))
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


async def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await run("list", *arguments, "--json")).stdout)
    return found


async def parked(kafka: Kafka, role: str, values: Sequence[bytes], cause: Exception | None = None) -> None:
    topic = await failing_role(kafka, role)
    await produce(kafka, topic, [(b"key-1", value) for value in values], headers=[("trace", b"abc")])
    try:
        raise cause or ValueError("a bug of ours")
    except Exception as error:
        await park(kafka, role, await read_all(kafka, topic), error)


async def copies(kafka: Kafka, role: str) -> list[bytes]:
    return [each.value for each in await read_all(kafka, f"{role}.in") if REDRIVEN in dict(each.headers)]


async def copied(kafka: Kafka, role: str, *values: bytes) -> None:
    """These are redriven; a commit is answered a moment before readers see it."""

    async def there() -> bool:
        assert await copies(kafka, role) == list(values)
        return True

    await eventually(there)


@pytest.mark.kafka
async def test_list_shows_what_waits(run: Run, kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b"0", b"1", b"2"])
    table = (await run("list", prefix)).stdout
    assert table.count("ValueError('a bug of ours')") == 3
    for heading in ("role", "letter", "parked", "topic", "offset", "error"):
        assert heading in table.splitlines()[0]
    assert "0@2" in table
    found = await rows(run, prefix)
    assert [(row["role"], row["letter"], row["lane"]) for row in found] == [
        (prefix, f"0@{offset}", 0) for offset in range(3)
    ]
    assert [(row["topic"], row["partition"], row["offset"]) for row in found] == [
        (f"{prefix}.in", 0, offset) for offset in range(3)
    ]
    assert prefix in {row["role"] for row in await rows(run)}, "of every role when none is named"

    assert len(await rows(run, prefix, "--topic", f"{prefix}.*", "--error", "BUG", "--since", "1h", "--lane", "0")) == 3
    for option, value in (("--topic", "in"), ("--error", "KeyError"), ("--since", "2999-01-01"), ("--lane", "1")):
        assert await rows(run, prefix, option, value) == []
    assert (await run("list", prefix, "--lane", "1")).stdout == "No dead letter waits.\n"

    newest = await run("list", prefix, "--limit", "2")
    assert "0@0" not in newest.stdout
    assert "the newest 2 of 3" in newest.stderr


@pytest.mark.kafka
async def test_show_tells_all_of_a_letter(run: Run, kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b'{"event": "Bought"}', b"\xff\x00", b"\x1b[2J wiped"], ValueError("\x1b[2J"))
    shown = (await run("show", prefix, "0@0")).stdout
    for part in (
        f"{prefix}.in",
        "key-1",
        "trace",
        "abc",
        '\nvalue:\n{"event": "Bought"}\n',
        "\ntraceback:\nTraceback ",
    ):
        assert part in shown
    assert "in parked" in shown
    assert "redriven" not in shown
    assert "value:\nbase64 /wA=" in (await run("show", prefix, "0@1")).stdout
    strange = (await run("show", prefix, "0@2")).stdout  # bytes from outside do not drive the terminal
    assert "value:\n\\x1b[2J wiped\n" in strange
    assert "ValueError: \\x1b[2J\n" in strange
    entity = json.loads((await run("show", prefix, "0@1", "--json")).stdout)
    assert b64decode(entity["value"]) == b"\xff\x00"
    assert entity["headers"] == [["trace", "YWJj"]]
    await run("redrive", prefix, "0@1", "--yes")
    assert f"{prefix}.in[0]@3" in (await run("show", prefix, "0@1")).stdout


@pytest.mark.kafka
async def test_redrive_does_what_it_was_told_and_says_what_it_did(run: Run, kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b"0", b"1", b"2"])
    dry = (await run("redrive", prefix, "--all", "--dry-run")).stdout
    assert "3 would be redriven." in dry
    assert f"{prefix}.in" in dry
    assert "ValueError" in dry
    assert await copies(kafka, prefix) == []

    assert "1 redriven." in (await run("redrive", prefix, "0@1", "--yes")).stdout
    again = (await run("redrive", prefix, "0@1", "--yes")).stdout
    assert again == "0@1 was redriven before.\nNothing to redrive.\n"
    await copied(kafka, prefix, b"1")
    assert "2 redriven." in (await run("redrive", prefix, "--all", "--error", "bug", "--yes")).stdout
    assert (await run("redrive", prefix, "--all", "--yes")).stdout == f"No dead letter of {prefix} waits.\n"
    await copied(kafka, prefix, b"1", b"0", b"2")
    assert await rows(run, prefix) == []
    assert [row["redriven"] for row in await rows(run, prefix, "--all")] == [True] * 3


@pytest.mark.kafka
async def test_a_lost_record_is_told_and_ends_with_code_1(run: Run, kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b"l" * 800_000, b"1"])
    admin = kafka.admin()
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(f"{prefix}.in", 0): RecordsToDelete(before_offset=1)})
    finally:
        await admin.close()
    assert "not there any more" in (await run("show", prefix, "0@0")).stdout
    result = await run("redrive", prefix, "--all", "--yes", exit_code=1)
    assert result.stdout.endswith("1 redriven, 1 lost.\n")
    assert result.stderr.startswith(f"lost: 0@0: {prefix}.in[0]@0 is not there any more")
    await copied(kafka, prefix, b"1")


@pytest.mark.kafka
async def test_what_can_not_be_done_is_told(run: Run, kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b"0"])

    async def told(*arguments: str, code: int = 1) -> str:
        result = await run(*arguments, exit_code=code)
        assert result.stdout == ""
        return " ".join(result.stderr.split())

    assert "say --yes" in (await run("redrive", prefix, "--all", exit_code=1)).stderr
    assert f"no letter at 0@7, 1@0 in dead.{prefix}" in await told("redrive", prefix, "1@0", "0@7", "0@0", "--yes")
    assert f"no letter at 0@1 in dead.{prefix}" in await told("show", prefix, "0@1")
    assert f"topic dead.{prefix}x is not there" in await told("list", f"{prefix}x")
    assert "say --all" in await told("redrive", prefix, code=2)
    assert "say --all" in await told("redrive", prefix, "0@0", "--all", code=2)
    assert "go with --all" in await told("redrive", prefix, "0@0", "--lane", "1", code=2)
    for wrong in ("7", "0@", "@1", "a@b", "-1@0"):
        assert "3@17" in await told("redrive", prefix, "--", wrong, code=2)
    assert "12h" in await told("list", prefix, "--since", "yesterday", code=2)
    assert await copies(kafka, prefix) == []


def test_without_a_kafka_it_says_how_to_name_one() -> None:
    result = CliRunner().invoke(app, ["dead", "list"], env={"KAFKA_BOOTSTRAP_SERVERS": None})
    assert result.exit_code == 1
    assert "KAFKA_BOOTSTRAP_SERVERS" in result.stderr


@pytest.mark.kafka
async def test_on_a_terminal_it_asks_first(kafka: Kafka, prefix: str) -> None:
    await parked(kafka, prefix, [b"0", b"1"])

    def answer(line: bytes) -> tuple[int, str]:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "pipeline.cli.main", "dead", "redrive", prefix, "--all"]
        try:
            os.write(master, line)
            ended = subprocess.run(
                command, stdin=slave, capture_output=True, text=True, env=os.environ | environment(kafka), timeout=60
            )
        finally:
            os.close(slave)
            os.close(master)
        return ended.returncode, ended.stdout

    code, told = await asyncio.to_thread(answer, b"n\n")
    assert code == 1
    assert f"Redrive 2 of {prefix}?" in told
    assert await copies(kafka, prefix) == []
    code, told = await asyncio.to_thread(answer, b"y\n")
    assert code == 0
    assert told.endswith("2 redriven.\n")
    await copied(kafka, prefix, b"0", b"1")
