"""The postgres role: customers, members, counts, events and all the rest kept in PostgreSQL, for those who ask there.

One process writes; another waits for its lock. What a batch of Kafka's records comes to, and how far it goes, are one
transaction of PostgreSQL, so each record is in its tables once, whatever dies when.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from psycopg import sql

from pipeline.lake.lane import Names
from pipeline.models.erasure import LOGS_DAYS, Erasure
from pipeline.models.event import IDENTIFYING
from pipeline.query.postgres_tables import (
    COUNT_PARTS,
    KEYED,
    LOGS,
    SCHEMA,
    VIEWS,
    Keyed,
    Log,
    Row,
    count_rows,
    customer_rows,
    moment,
    plain,
)
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka, disconnect
from pipeline.stream.reader import Batch, Reader, open_reader

__all__ = ["run_postgres"]

log = logging.getLogger(__name__)

Connection = psycopg.AsyncConnection[Any]
#: Of this role among the advisory locks of the database.
_LOCK = 0x6865_6164_7261_6365
_TAKE_SECONDS = 0.5
_TAKE_RECORDS = 5_000
_RETRY_SECONDS = 2.0
#: Positions are told this often though nothing came, so that a long absence is known as one.
_ALIVE_SECONDS = 600.0
#: Compaction drops deletions a day after them: who was away for longer has missed some.
_STALE = timedelta(hours=20)
_OWN_TABLES = """
    CREATE TABLE IF NOT EXISTS {0}.positions (
        topic text, partition integer, next bigint NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (topic, partition));
    CREATE TABLE IF NOT EXISTS {0}.lane_clocks (lane integer PRIMARY KEY, as_of timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS {0}.erased (
        identifier text PRIMARY KEY, until timestamptz NOT NULL, at timestamptz NOT NULL)
"""


class _Tables:
    """What one connection writes."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._customers = f"{names.prefix}customers"
        self._counts = f"{names.prefix}segments.counts"
        self._erasures = names.erasures
        self._logs = {names.topic(each.kind): (each, each.kind.decoder()) for each in LOGS}
        #: Identifier -> the moment until which it is erased.
        self._erased: dict[str, Any] = {}

    @property
    def topics(self) -> list[str]:
        """All that is read, lane by lane."""
        return [self._customers, self._counts, *self._logs]

    async def prepare(self) -> None:
        """Make what is not there yet; read back who was erased."""
        run = self._connection.execute
        async with self._connection.transaction():
            await run(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
            await run(sql.SQL(_OWN_TABLES).format(sql.Identifier(SCHEMA)))
            for table in KEYED:
                await self._make(table, ())
                await self._index(table, (table.key,))
                await self._index(table, table.index)
            for each in LOGS:
                await self._make(each, ("lane", "offset"))
                if each.kind.trail is not None:
                    await self._index(each, ("customer", "time"))
                await self._index(each, ("partner", "time"))
            for name, select in VIEWS.items():
                await run(sql.SQL("CREATE OR REPLACE VIEW {} AS " + cast(Any, select)).format(_named(name)))
            old = timedelta(days=LOGS_DAYS)
            await run(f"DELETE FROM {SCHEMA}.erased WHERE at < now() - %s", [old])
            rows = await (await run(f"SELECT identifier, until FROM {SCHEMA}.erased")).fetchall()
            self._erased = dict(rows)

    async def positions(self) -> dict[tuple[str, int], int]:
        """How far it was; what it has missed deletions of is emptied, to be read anew."""
        run = self._connection.execute
        async with self._connection.transaction():
            stale = f"SELECT 1 FROM {SCHEMA}.positions WHERE topic = ANY(%s) AND at < now() - %s LIMIT 1"
            compacted = [self._customers, self._counts]
            if await (await run(stale, [compacted, _STALE])).fetchone():
                await self.empty()
            rows = await (await run(f"SELECT topic, partition, next FROM {SCHEMA}.positions")).fetchall()
        return {(topic, partition): offset for topic, partition, offset in rows}

    async def empty(self) -> None:
        """Forget customers, members and counts."""
        log.warning("postgres: customers and counts are read anew: it was away for longer than deletions are kept")
        names = sql.SQL(", ").join(_named(table.name) for table in KEYED)
        await self._connection.execute(sql.SQL("TRUNCATE {}").format(names))
        await self._connection.execute(
            f"DELETE FROM {SCHEMA}.positions WHERE topic = ANY(%s)", [[self._customers, self._counts]]
        )

    async def write(self, batches: Sequence[Batch], positions: Mapping[TopicPartition, int]) -> None:
        """What these records come to, and that they are done."""
        async with self._connection.transaction():
            for batch in batches:
                if batch.topic == self._erasures:
                    for record in batch.records:
                        await self._erase(Erasure.model_validate_json(record.value or b""))
            for batch in batches:
                if batch.topic == self._customers:
                    newest = {record.key or b"": record.value for record in batch.records}
                    keys = [plain(key.decode()) for key in newest]
                    for table, rows in customer_rows(newest):
                        await self._replace(table, keys, rows)
                elif batch.topic == self._counts:
                    await self._count({record.key or b"": record.value for record in batch.records})
                elif batch.topic in self._logs:
                    each, decode = self._logs[batch.topic]
                    records = [(record.offset, record.value or b"") for record in batch.records]
                    await self._copy(each, self._others(each, each.rows(decode, batch.partition, records)))
            await self._told(positions)

    async def _told(self, positions: Mapping[TopicPartition, int]) -> None:
        rows = [(tp.topic, tp.partition, offset) for tp, offset in positions.items()]
        async with self._connection.cursor() as cursor:
            await cursor.executemany(
                f"INSERT INTO {SCHEMA}.positions VALUES (%s, %s, %s, now()) "
                "ON CONFLICT (topic, partition) DO UPDATE SET next = excluded.next, at = excluded.at",
                rows,
            )

    async def _count(self, records: Mapping[bytes, bytes | None]) -> None:
        rows, clocks = count_rows(records)
        await self._replace(COUNT_PARTS, [key.decode() for key in records], rows)
        for lane, as_of in clocks.items():
            await self._connection.execute(
                f"INSERT INTO {SCHEMA}.lane_clocks VALUES (%s, %s) "
                "ON CONFLICT (lane) DO UPDATE SET as_of = excluded.as_of",
                [lane, as_of],
            )

    async def _erase(self, erasure: Erasure) -> None:
        until = moment(erasure.at)
        for identifier in map(plain, erasure.identifiers):
            self._erased[identifier] = max(until, self._erased.get(identifier, until))
            await self._connection.execute(
                f"INSERT INTO {SCHEMA}.erased VALUES (%s, %s, now()) "
                "ON CONFLICT (identifier) DO UPDATE SET until = greatest(erased.until, excluded.until)",
                [identifier, until],
            )
        for each in LOGS:
            if each.kind.trail is None:
                continue
            last = moment(erasure.at + each.kind.trail)
            delete = sql.SQL("DELETE FROM {} WHERE time <= %s AND customer = ANY(%s)").format(_named(each.name))
            await self._connection.execute(delete, [last, list(map(plain, erasure.identifiers))])
            if each.name == "events":
                await self._erase_nobodys(erasure)

    async def _erase_nobodys(self, erasure: Erasure) -> None:
        """Events that count for nobody, a robot's, and name it."""
        for kind, column in IDENTIFYING.items():
            values = [plain(each[2]) for each in (i.split("|", 2) for i in erasure.identifiers) if each[1] == kind]
            if values:
                value = sql.SQL("lower({})" if kind == "e" else "{}").format(sql.Identifier(column))
                await self._connection.execute(
                    sql.SQL(
                        "DELETE FROM {} WHERE partner = %s AND time <= %s AND customer IS NULL AND {} = ANY(%s)"
                    ).format(_named("events"), value),
                    [erasure.partner, moment(erasure.at), values],
                )

    def _others(self, table: Log, rows: list[Row]) -> list[Row]:
        """Without what was erased before it came."""
        if table.kind.trail is None or not self._erased:
            return rows
        names = list(table.columns)
        customer, at = names.index("customer"), names.index("time")
        trail = timedelta(milliseconds=table.kind.trail)
        return [row for row in rows if (until := self._erased.get(row[customer])) is None or row[at] > until + trail]

    async def _replace(self, table: Keyed, keys: list[str], rows: Sequence[Row]) -> None:
        delete = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(_named(table.name), sql.Identifier(table.key))
        await self._connection.execute(delete, [keys])
        await self._copy(table, rows)

    async def _copy(self, table: Keyed | Log, rows: Sequence[Row]) -> None:
        """Write rows. Of one that PostgreSQL can't hold (a number of a million digits) the JSON is left out."""
        if not rows:
            return
        try:
            async with self._connection.transaction():
                await self._copy_all(table, rows)
        except psycopg.DataError as error:
            if len(rows) > 1:
                middle = len(rows) // 2
                await self._copy(table, rows[:middle])
                await self._copy(table, rows[middle:])
                return
            kinds = list(table.columns.values())
            bare = tuple(None if kind == "jsonb" else value for kind, value in zip(kinds, rows[0], strict=True))
            if bare == tuple(rows[0]):
                raise
            log.warning("postgres: a row of %s is kept without its JSON: %s", table.name, str(error).partition("\n")[0])
            await self._copy(table, [bare])

    async def _copy_all(self, table: Keyed | Log, rows: Sequence[Row]) -> None:
        columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
        async with (
            self._connection.cursor() as cursor,
            cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(_named(table.name), columns)) as copy,
        ):
            for row in rows:
                await copy.write_row(row)

    async def _make(self, table: Keyed | Log, primary: tuple[str, ...]) -> None:
        columns = [sql.SQL("{} {}").format(sql.Identifier(n), sql.SQL(cast(Any, t))) for n, t in table.columns.items()]
        if primary:
            columns.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(map(sql.Identifier, primary))))
        made = sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(_named(table.name), sql.SQL(", ").join(columns))
        await self._connection.execute(made)
        for name, kind in table.columns.items():
            # One that came with a later version.
            await self._connection.execute(
                sql.SQL("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} {}").format(
                    _named(table.name), sql.Identifier(name), sql.SQL(cast(Any, kind))
                )
            )

    async def _index(self, table: Keyed | Log, columns: tuple[str, ...]) -> None:
        name = sql.Identifier(f"{table.name}_{'_'.join(columns)}")
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        await self._connection.execute(
            sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({})").format(name, _named(table.name), listed)
        )


def _named(table: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, table)


async def run_postgres(kafka: Kafka, settings: Settings, stop: asyncio.Event, names: Names | None = None) -> None:
    """Run the role until ``stop`` is set, whatever is away meanwhile. ``settings.postgres`` is there."""
    assert settings.postgres is not None
    names = names or Names()
    while not stop.is_set():
        try:
            async with await psycopg.AsyncConnection.connect(
                settings.postgres.get_secret_value(), autocommit=True, application_name="headrace"
            ) as connection:
                if await _locked(connection, stop):
                    await _follow(kafka, settings.lanes, _Tables(connection, names), names, stop)
        except (psycopg.OperationalError, KafkaError, OSError) as error:
            log.warning("postgres: %s; beginning again", str(error).strip() or repr(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_SECONDS)


async def _locked(connection: Connection, stop: asyncio.Event) -> bool:
    """Whether this process is the one that writes; False when it is to stop before that."""
    waiting = False
    while not stop.is_set():
        row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])).fetchone()
        if row and row[0]:
            return True
        if not waiting:
            log.info("postgres: another process writes; waiting")
            waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _RETRY_SECONDS)
    return False


async def _follow(kafka: Kafka, lanes: int, tables: _Tables, names: Names, stop: asyncio.Event) -> None:
    await tables.prepare()
    known = await tables.positions()
    reader = open_reader(kafka, fetch_max_wait_ms=250)
    await reader.start()
    try:
        wanted = [TopicPartition(topic, n) for topic in tables.topics for n in range(lanes)]
        wanted.append(TopicPartition(names.erasures, 0))
        await reader.existing(wanted)
        begins = await reader.beginning_offsets(wanted)
        reader.read_from({tp: known.get((tp.topic, tp.partition), begins[tp]) for tp in wanted})
        log.info("postgres runs")
        told = 0.0
        while not stop.is_set():
            batches = await _take(reader, begins)
            alive = time.monotonic() - told > _ALIVE_SECONDS
            if batches or alive:
                positions = reader.positions()
                touched = {TopicPartition(batch.topic, batch.partition) for batch in batches}
                await tables.write(batches, {tp: positions[tp] for tp in (positions if alive else touched)})
                told = time.monotonic() if alive else told
    finally:
        await disconnect(reader)


async def _take(reader: Reader, begins: Mapping[TopicPartition, int]) -> list[Batch]:
    try:
        return await reader.take(_TAKE_SECONDS, _TAKE_RECORDS)
    except OffsetOutOfRangeError as error:
        lost = list(error.args[0]) if error.args and isinstance(error.args[0], dict) else []
        log.error("ALERT postgres: what it is to read of %s is gone; rows are lost", lost or "a topic")
        positions = reader.positions()
        first = await reader.beginning_offsets(lost or list(begins))
        reader.read_from({tp: max(offset, first.get(tp, 0)) for tp, offset in positions.items()})
        return []
