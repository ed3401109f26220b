"""Asking a Headrace for its numbers from Python: SQL answers as Arrow, pandas or polars.

    from pipeline.client import Headrace

    acme = Headrace("http://127.0.0.1:8081", "acme")
    acme.sql("SELECT segment, customers FROM segment_counts WHERE scope = 'all'").pandas()

Needs nothing of the other rooms, no Kafka, and of pandas or polars only what is asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Self

import httpx
import pyarrow as pa

__all__ = ["Answer", "Headrace", "QueryError"]


class QueryError(Exception):
    """The API refused. ``code``: its own (``invalid``, ``forbidden``, ``timeout``, ``memory``, …)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Answer:
    """Rows of a query. ``as_of``: ms since 1970 for which members and counts are right, None: not known yet.

    ``behind``: records that the answering process had not read yet. ``truncated``: there were more rows.
    """

    table: pa.Table
    as_of: int | None
    behind: int
    truncated: bool

    def arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def pandas(self) -> Any:
        """As a pandas DataFrame; needs pandas."""
        return self.table.to_pandas()

    def polars(self) -> Any:
        """As a polars DataFrame; needs polars."""
        import polars

        return polars.from_arrow(self.table)

    def rows(self) -> list[dict[str, Any]]:
        """As dictionaries."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


class Headrace:
    """One partner of one API. Close it, or use it in `with`. ``token``: of the API, else ``HEADRACE_API_TOKEN``."""

    def __init__(self, address: str, partner: str, *, token: str | None = None, timeout: float = 90.0) -> None:
        token = token or os.environ.get("HEADRACE_API_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=f"{address.rstrip('/')}/v1/partners/{partner}/", headers=headers, timeout=timeout
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def sql(self, query: str, *, limit: int = 1_000_000, seconds: float = 60.0) -> Answer:
        """The rows of a SELECT, ``limit`` at the most. Raises `QueryError`, and httpx's for a network that fails."""
        body = {"query": query, "limit": limit, "seconds": seconds}
        answer = self._http.post("sql", params={"format": "arrow"}, json=body)
        if answer.status_code != 200:
            raise _refusal(answer)
        with pa.ipc.open_stream(answer.content) as stream:
            table = stream.read_all()
        as_of = answer.headers["x-headrace-as-of"]
        return Answer(
            table,
            int(as_of) if as_of else None,
            int(answer.headers["x-headrace-behind"]),
            answer.headers["x-headrace-truncated"] == "true",
        )

    def tables(self) -> dict[str, dict[str, str]]:
        """Name of a table -> name of a column -> its type."""
        answer = self._http.get("sql/tables")
        if answer.status_code != 200:
            raise _refusal(answer)
        return {
            table["name"]: {column["name"]: column["type"] for column in table["columns"]}
            for table in answer.json()["items"]
        }


def _refusal(answer: httpx.Response) -> QueryError:
    try:
        problem = answer.json()
        return QueryError(str(problem["code"]), str(problem["message"]))
    except (ValueError, KeyError, TypeError):
        return QueryError("http", f"status {answer.status_code}")
