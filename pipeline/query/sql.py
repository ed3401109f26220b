"""A query of somebody else's over tables that we give it: DuckDB, reading nothing else, within time and memory.

Each query has a database of its own, in memory, that knows nothing but the tables, and that is gone with it: what a
query could change is read by no other (docs/decisions/0018-sql.md).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

__all__ = ["Limits", "SqlError", "Table", "quoted", "run"]

#: What DuckDB reads without a copy: rows in memory, or files with what is known of them.
Table = Any
_SETTINGS = (
    "SET enable_external_access = false",
    "SET allow_community_extensions = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET max_temp_directory_size = '0KB'",
    "SET TimeZone = 'UTC'",
)
_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_BATCH_ROWS = 10_000


class SqlError(Exception):
    """The query can't be answered. ``code``: ``invalid``, ``forbidden``, ``timeout``, ``memory`` or ``large``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Limits:
    """``memory``: bytes that DuckDB may use; ``answer``: bytes of the rows, in columns."""

    seconds: float = 30.0
    rows: int = 10_000
    memory: int = 1 << 30
    answer: int = 256 << 20
    threads: int = 2


def run(
    query: str, tables: Mapping[str, Table], limits: Limits, views: Mapping[str, str] | None = None
) -> tuple[pa.Table, bool]:
    """The rows, and whether there were more than ``limits.rows``. Blocks: call it in a thread. Raises `SqlError`.

    ``views``: SELECTs of ours over the tables, by name; a name with parameters is that of a table function.
    """
    with duckdb.connect(":memory:") as connection:
        for setting in _SETTINGS:
            connection.execute(setting)
        connection.execute(f"SET memory_limit = '{limits.memory}B'")
        connection.execute(f"SET threads = {limits.threads}")
        for name, table in tables.items():
            connection.register(name, table)
        for name, select in (views or {}).items():
            form = f"MACRO {name} AS TABLE" if "(" in name else f"VIEW {name} AS"
            connection.execute(f"CREATE {form} {select}")
        connection.execute("SET lock_configuration = true")
        _check(connection, query)
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            connection.interrupt()

        timer = threading.Timer(limits.seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            return _rows(connection, query, limits)
        except duckdb.OutOfMemoryException:
            raise SqlError("memory", f"it needs more than {limits.memory >> 20} MB; ask for less at a time") from None
        except duckdb.InterruptException:
            raise SqlError("timeout", f"not answered within {limits.seconds:g} s") from None
        except duckdb.PermissionException as error:
            raise SqlError("forbidden", f"only the tables can be read: {_first(error)}") from None
        except (duckdb.Error, pa.ArrowException) as error:
            if expired.is_set():
                raise SqlError("timeout", f"not answered within {limits.seconds:g} s") from None
            raise SqlError("invalid", str(error)) from None
        finally:
            timer.cancel()


def quoted(text: str) -> str:
    """``text`` as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _check(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise SqlError("invalid", str(error)) from None
    if len(statements) != 1:
        raise SqlError("invalid", f"one statement at a time, not {len(statements)}")
    if statements[0].type not in _READS:
        raise SqlError("forbidden", f"only SELECT, not {statements[0].type.name}")
    if statements[0].named_parameters:
        raise SqlError("invalid", "it has parameters; write the values")


def _rows(connection: duckdb.DuckDBPyConnection, query: str, limits: Limits) -> tuple[pa.Table, bool]:
    # A SELECT may write, by a WITH that deletes or inserts; not in here.
    connection.execute("BEGIN TRANSACTION READ ONLY")
    relation = connection.sql(query)
    if relation is None:
        raise SqlError("forbidden", "only what gives rows")
    reader = relation.to_arrow_reader(min(_BATCH_ROWS, limits.rows + 1))
    batches: list[pa.RecordBatch] = []
    count = size = 0
    for batch in reader:
        batches.append(batch)
        count += batch.num_rows
        size += batch.nbytes
        if size > limits.answer:
            raise SqlError(
                "large", f"the rows are larger than {limits.answer >> 20} MB; ask for fewer, or less of them"
            )
        if count > limits.rows:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, limits.rows), count > limits.rows


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
