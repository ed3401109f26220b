"""The tables in PostgreSQL are those that SQL has here: through kill -9, merges, an edit and an erasure."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from eventually import eventually
from postgres_server import postgres_server
from stack import Stack, produce

VIEWED = {"event": "Viewed", "count": {"op": ">=", "value": 2}}
#: Of both, with the same answer. {} is the partner.
QUESTIONS = {
    "customers": "SELECT customer, identified, first_seen, last_seen FROM {} ORDER BY 1",
    "identities": "SELECT identifier, customer, since FROM {} ORDER BY 1",
    "segment_members": "SELECT segment, customer, scope, name, since, version FROM {} ORDER BY 1, 2, 3, 4",
    "segment_counts": "SELECT segment, scope, name, customers, identified, anonymous FROM {} ORDER BY 1, 2, 3",
    "events": 'SELECT lane, "offset", id, customer, name, time, flags FROM {} ORDER BY 1, 2',
    "segment_transitions": 'SELECT lane, "offset", id, kind, customer, cause, time FROM {} ORDER BY 1, 2',
    "rejected": 'SELECT lane, "offset", source, reason, path FROM {} ORDER BY 1, 2',
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("postgres")) as found:
        yield found


@contextmanager
def role(stack: Stack, address: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace postgres` beside the stack."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "HEADRACE_"))}
    environment |= {
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "HEADRACE_POSTGRES": address,
        "HEADRACE_LANES": "4",
        "HEADRACE_DATA_DIR": str(stack.data),
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", "postgres"], env=environment, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)


def theirs(address: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(address) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        try:
            return connection.execute(query.encode()).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise AssertionError("not made yet") from error


def same(stack: Stack, tenant: Any, address: str, table: str) -> int:
    """Asserts that both have the same rows; how many."""
    answer = tenant.api.post("/sql", json={"query": QUESTIONS[table].format(table)}).json()
    ours = [tuple(row) for row in answer["rows"]]
    mine = f"(SELECT * FROM headrace.{table} WHERE partner = '{tenant.id}') AS mine"
    found = [tuple(_plain(value) for value in row) for row in theirs(address, QUESTIONS[table].format(mine))]
    assert sorted(found, key=repr) == sorted(ours, key=repr)
    return len(found)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


@pytest.mark.slow
async def test_postgres_has_what_sql_has_whatever_dies(stack: Stack, tenant: Any, address: str, tmp_path: Path) -> None:
    tenant.create("segments", id="often", name="Often", condition=VIEWED)
    rng, topic, log = random.Random(7), f"raw.{tenant.id}.app", tmp_path / "role.log"

    def events(first: int, count: int) -> list[dict[str, Any]]:
        made = []
        for number in range(first, first + count):
            who = rng.choice(
                [
                    {"anonymousId": f"a{rng.randrange(20)}"},
                    {"userId": f"u{rng.randrange(20)}"},
                    {"userId": f"u{number % 20}", "anonymousId": f"a{number % 20}"},
                ]
            )
            properties = {"what": "nul \0 and \\u0000", "n": number}
            made.append({"type": "track", "event": "Viewed", "messageId": f"m{number}", "properties": properties} | who)
        return made

    def equal() -> int:
        return sum(same(stack, tenant, address, table) for table in QUESTIONS)

    # Killed while it is busy, again and again; a second one waits for its lock meanwhile.
    for turn in range(4):
        with role(stack, address, log) as one, role(stack, address, log):
            await produce(stack, topic, events(turn * 150, 150))
            await eventually(lambda: len(theirs(address, "SELECT 1 FROM information_schema.schemata")) > 0)
            one.kill()
            one.wait(30)
    with role(stack, address, log):
        await produce(stack, topic, [*events(600, 100), {"type": "track", "userId": "x"}])
        await eventually(lambda: equal() > 700 and same(stack, tenant, address, "rejected") == 1, 60)
        what = f"SELECT DISTINCT properties->>'what' FROM headrace.events WHERE partner = '{tenant.id}'"
        assert theirs(address, what) == [("nul  and \\u0000",)]
        person = "SELECT count(DISTINCT person) FROM headrace.customer_events WHERE partner = '{}'"
        people = "SELECT count(*) FROM headrace.customers WHERE partner = '{}'"
        assert theirs(address, person.format(tenant.id)) == theirs(address, people.format(tenant.id))
        erased = tenant.api.delete("/customers/u3")
        assert erased.status_code in (200, 202), erased.text
        gone = f"SELECT count(*) FROM headrace.events WHERE customer = '{tenant.id}|u|u3'"
        await eventually(lambda: theirs(address, gone) == [(0,)], 30)
        await eventually(equal, 60)
    # Away for so long that deletions may have been missed: customers and counts are read anew.
    with psycopg.connect(address) as connection:
        connection.execute("UPDATE headrace.positions SET at = now() - interval '2 days'")
        connection.execute("INSERT INTO headrace.identities VALUES (%s, 'ghost', 'ghost', now())", [tenant.id])
    with role(stack, address, log):
        await eventually(equal, 60)
    assert "read anew" in log.read_text()


def test_without_an_address_it_says_what_to_set(tmp_path: Path) -> None:
    environment = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "HEADRACE_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pipeline.cli.main", "postgres"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 2
    assert "HEADRACE_POSTGRES" in done.stderr
