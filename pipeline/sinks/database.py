"""PostgreSQL as a transport: rows put into a table, over a connection to an address that may be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pipeline.guard import Guard
from pipeline.sinks.base import SetupError
from pipeline.sinks.http import Answer, NoAnswer, reaching

__all__ = ["DatabaseTransport", "Upsert"]

_TYPES = {
    "id": "text PRIMARY KEY",
    "name": "text NOT NULL",
    "time": "timestamptz NOT NULL",
    "customer_id": "text NOT NULL",
    "user_id": "text",
    "anonymous_id": "text",
    "email": "text",
    "phone": "text",
    "value": "double precision",
    "currency": "text",
    "properties": "jsonb NOT NULL",
    "traits": "jsonb NOT NULL",
    "test": "boolean NOT NULL",
    "replayed": "boolean NOT NULL",
}
#: Of this machine nothing goes to a tenant's server: libpq would send the password of PGPASSWORD or ~/.pgpass, the
#: certificate of ~/.postgresql and Kerberos' ticket to whom it is told to. The path is nobody's, and can be none's.
_NOTHING_OF_OURS = {"passfile": "/dev/null/none", "sslcertmode": "disable", "gssencmode": "disable"}
_NOT_LET_IN = (
    "authentication",
    "password",
    "does not exist",
    "certificate",
    "pg_hba.conf",
    "support SSL",
    "permission denied",
)
_CONNECT_SECONDS = 5
_READ = {
    "time": "to_timestamp((row->>'time')::bigint / 1000.0)",
    "value": "(row->>'value')::double precision",
    "properties": "(row->>'properties')::jsonb",
    "traits": "(row->>'traits')::jsonb",
    "test": "(row->>'test')::boolean",
    "replayed": "(row->>'replayed')::boolean",
}


@dataclass(frozen=True, slots=True)
class Upsert:
    """Rows, as JSON (`rows`), for a table. Without any, the table is only looked at."""

    server: Mapping[str, Any]
    password: str | None
    schema: str
    table: str
    create: bool
    rows: tuple[bytes, ...]

    def shown(self) -> dict[str, Any]:
        """As the delivery log may have it: the first rows, and no password."""
        text = b",".join(self.rows[:10]).decode(errors="replace")[:10_000]
        return {"server": dict(self.server), "table": f"{self.schema}.{self.table}", "body": f"[{text}]"}


class DatabaseTransport:
    """A connection a batch."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def send(self, request: Upsert, timeout_s: float) -> Answer:
        """200, or 500 with ``sqlstate``. Raises NoAnswer; SetupError for what may not be reached."""
        with reaching(timeout_s):
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._put(request, timeout_s)
                except psycopg.Error as error:
                    if error.sqlstate is not None:
                        return Answer(500, {"sqlstate": error.sqlstate}, str(error).encode())
                    raise NoAnswer(f"no answer: {_line(error)}") from None

    async def _put(self, request: Upsert, timeout_s: float) -> Answer:
        host, port = str(request.server["host"]), int(request.server["port"])
        with reaching(timeout_s, sent=False):
            found = await asyncio.to_thread(self._guard.resolve, host, port)
        addresses = ",".join(dict.fromkeys(str(address[0]) for *_, address in found))
        count = addresses.count(",") + 1
        # The name is for the certificate; where to, the addresses say: those that were checked.
        server = dict(request.server) | {"host": ",".join([host] * count), "port": ",".join([str(port)] * count)}
        if server["sslmode"] == "verify-full":
            # Whom the system trusts; libpq takes that with the strictest mode alone.
            server["sslrootcert"] = "system"
        connection = await _connected(
            **server,
            **_NOTHING_OF_OURS,
            hostaddr=addresses,
            # Empty, not left out: then libpq looks in the environment.
            password=request.password or "",
            connect_timeout=min(_CONNECT_SECONDS, max(2, int(timeout_s))),
            application_name="headrace",
        )
        async with connection:
            # Not as an option of the connection, which poolers (PgBouncer) refuse.
            limit = str(int(timeout_s * 1000))
            await connection.execute("SELECT set_config('statement_timeout', %s, true)", [limit])
            if request.create and (await _missing(connection, request)):
                await connection.execute(_create(request))
            if not request.rows:
                await connection.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(_table(request)))
            else:
                await connection.execute(_insert(request), [(b"[%b]" % b",".join(request.rows)).decode()])
        return Answer(200, {}, b"")


async def _connected(**options: Any) -> psycopg.AsyncConnection[Any]:
    """Raises SetupError where we are not let in, NoAnswer where nobody answers: no row was sent."""
    try:
        return await psycopg.AsyncConnection.connect(**options)
    except psycopg.Error as error:
        if error.sqlstate is not None:
            raise
        said = _line(error)
        # libpq has no SQLSTATE for what goes wrong before a session is there, but its words.
        if any(word in said for word in _NOT_LET_IN):
            raise SetupError(f"PostgreSQL does not let us in: {said}") from None
        raise NoAnswer(f"no connection: {said}", sent=False) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _table(request: Upsert) -> sql.Identifier:
    return sql.Identifier(request.schema, request.table)


async def _missing(connection: psycopg.AsyncConnection[Any], request: Upsert) -> bool:
    found = await connection.execute("SELECT to_regclass(%s)", [_table(request).as_string()])
    row = await found.fetchone()
    return row is None or row[0] is None


def _create(request: Upsert) -> sql.Composed:
    columns = [sql.SQL("{} " + kind).format(sql.Identifier(name)) for name, kind in _TYPES.items()]
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(_table(request), sql.SQL(", ").join(columns))


def _insert(request: Upsert) -> sql.Composed:
    """Of two rows of one id in a batch the last stands, as of two batches."""
    names = [sql.Identifier(name) for name in _TYPES]
    values = [sql.SQL(_READ.get(name, f"row->>'{name}'")) for name in _TYPES]
    changes = [sql.SQL("{0} = excluded.{0}").format(name) for name in names[1:]]
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT DISTINCT ON (row->>'id') {values} "
        "FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS rows (row, place) "
        "ORDER BY row->>'id', place DESC ON CONFLICT (id) DO UPDATE SET {changes}"
    ).format(
        table=_table(request),
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join(values),
        changes=sql.SQL(", ").join(changes),
    )
