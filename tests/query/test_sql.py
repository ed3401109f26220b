"""SQL of others: what it may read, how long it may take, and that it leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.query.sql import Limits, SqlError, run

PEOPLE = pa.table({"customer": ["a", "b", "c"], "spent": [1, 20, 300], "traits": ['{"plan": "pro"}', "{}", "{}"]})
TABLES = {"customers": PEOPLE}
LIMITS = Limits(seconds=20)


def ask(query: str, limits: Limits = LIMITS) -> pa.Table:
    return run(query, TABLES, limits)[0]


def refused(query: str, limits: Limits = LIMITS) -> SqlError:
    with pytest.raises(SqlError) as caught:
        run(query, TABLES, limits)
    return caught.value


@pytest.mark.parametrize(
    "query",
    [
        "SELECT customer, spent FROM customers WHERE spent > 1 ORDER BY customer",
        "FROM customers SELECT customer, spent WHERE spent BETWEEN 20 AND 300 ORDER BY 1",
        "WITH rich AS (SELECT * FROM customers WHERE spent >= 20) SELECT customer, spent FROM rich ORDER BY spent",
    ],
)
def test_a_select_is_answered(query: str) -> None:
    assert ask(query).to_pylist() == [{"customer": "b", "spent": 20}, {"customer": "c", "spent": 300}]


def test_json_times_and_the_list_of_tables_can_be_asked() -> None:
    assert ask("SELECT count(*) AS n FROM customers WHERE traits->>'plan' = 'pro'").to_pylist() == [{"n": 1}]
    assert ask("SHOW TABLES").to_pylist() == [{"name": "customers"}]
    assert ask("SELECT current_setting('TimeZone') AS zone").to_pylist() == [{"zone": "UTC"}]
    assert ask("EXPLAIN SELECT 1").num_rows == 1


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM parquet_scan('{file}')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SELECT * FROM duckdb_secrets()",
        "COPY customers TO '{file}.copy'",
        "EXPORT DATABASE '{file}.export'",
        "ATTACH '{file}.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET memory_limit = '100GB'",
        "RESET lock_configuration",
        "PRAGMA enable_external_access = true",
        "CALL enable_logging()",
        "CREATE TABLE mine AS SELECT 1",
        "INSERT INTO customers VALUES ('d', 1, '{{}}')",
        "DELETE FROM customers",
        "WITH gone AS (DELETE FROM customers RETURNING *) SELECT * FROM gone",
        "SELECT * FROM enable_logging('x')",
        "PREPARE later AS SELECT 1",
        "BEGIN",
        "COMMIT",
        "USE memory",
        "CHECKPOINT",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW customers",
        "SELECT $1",
        "SELECT getenv('HOME')",
        "SELECT * FROM PEOPLE",
        "SELECT * FROM TABLES",
        "",
        "SELECT",
        "-- nothing",
    ],
)
def test_nothing_but_the_tables_can_be_read_and_nothing_written(query: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,correct-horse\n")
    error = refused(query.format(file=file))
    assert error.code in ("invalid", "forbidden")
    assert "correct-horse" not in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert ask("SELECT count(*) AS n FROM customers").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c WHERE a.range * b.range % 7 = c.range",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    ],
)
def test_what_takes_too_long_is_given_up(query: str) -> None:
    began = time.monotonic()
    assert refused(query, Limits(seconds=0.5)).code == "timeout"
    assert time.monotonic() - began < 10


def test_what_takes_too_much_memory_is_given_up() -> None:
    query = "SELECT list(a.range::VARCHAR || repeat('x', 1000)) FROM range(1000000) a"
    assert refused(query, Limits(memory=64 << 20)).code == "memory"
    query = "SELECT repeat('x', 100000) AS x FROM range(1000)"
    assert refused(query, Limits(answer=1 << 20)).code == "large"


def test_more_rows_than_the_limit_are_said_to_be_there() -> None:
    found, truncated = run("SELECT * FROM range(100)", TABLES, Limits(rows=10))
    assert (found.num_rows, truncated) == (10, True)
    found, truncated = run("SELECT * FROM range(10)", TABLES, Limits(rows=10))
    assert (found.num_rows, truncated) == (10, False)
    found, truncated = run("SELECT * FROM range(0)", TABLES, Limits(rows=10))
    assert (found.num_rows, found.column_names, truncated) == (0, ["range"], False)
