"""PostgreSQL: a row per record, by upsert. Dedup key: the column ``id``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified
from pipeline.sinks.database import Upsert
from pipeline.sinks.rows import row_of, without_nul

__all__ = ["PostgresConfig", "PostgresSink"]

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,62}$")]
#: Classes of SQLSTATE (PostgreSQL, appendix A): of the connection, resources, operators, locks; of the set-up.
_TRANSIENT = {"08", "40", "53", "55", "57", "58", "XX"}
_SETUP = {"0A", "28", "3D", "3F", "42"}


class PostgresConfig(BatchConfig):
    """``create``: make the table where it is missing. ``sslmode``: as libpq's; the default checks the certificate."""

    host: str = Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")
    port: int = Field(5432, ge=1, le=65_535)
    database: str = Field(min_length=1, max_length=63)
    user: str = Field(min_length=1, max_length=63)
    db_schema: Name = Field("public", alias="schema")
    table: Name = "headrace_events"
    create: bool = True
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "verify-full"
    max_in_flight: int = Field(4, ge=1, le=1000)


class PostgresSink(BatchSink[PostgresConfig]):
    """Secret: the user's password, where it has one."""

    kind = "postgres"
    Config = PostgresConfig
    most = 1000
    most_bytes = 4 << 20

    def part(self, dispatch: Dispatch, config: PostgresConfig, now: Millis) -> bytes:
        """A row (`rows`); NUL, which PostgreSQL has no text with, is left out."""
        told = self.told(dispatch, config)
        row = row_of(told)
        return row_of(without_nul(told)) if b"u0000" in row else row

    def request_of(self, parts: Sequence[bytes], config: PostgresConfig, secret: str | None, now: Millis) -> Upsert:
        """All rows in one statement, in one transaction."""
        return self._upsert(list(parts), config, secret)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By the class of SQLSTATE, in the header ``sqlstate``."""
        if status == 200:
            return Classified("ok")
        state = headers.get("sqlstate", "")
        detail = f"PostgreSQL says {state}: {body.decode(errors='replace')[:300]}"
        if state[:2] in _SETUP:
            return Classified("setup", detail)
        return Classified("transient" if state[:2] in _TRANSIENT or not state else "invalid", detail)

    def probe(self, config: PostgresConfig, secret: str | None, now: Millis) -> Upsert:
        """The table, and no row."""
        return self._upsert([], config, secret)

    def _upsert(self, rows: list[bytes], config: PostgresConfig, secret: str | None) -> Upsert:
        server = {"host": config.host, "port": config.port, "dbname": config.database, "user": config.user}
        where = server | {"sslmode": config.sslmode}
        return Upsert(where, secret, config.db_schema, config.table, config.create, tuple(rows))
