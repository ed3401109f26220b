"""All that is kept of one customer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from pydantic import Field

from pipeline.lake.kinds import KINDS
from pipeline.models.base import Millis, Model
from pipeline.models.customer import Customer
from pipeline.models.event import IDENTIFYING
from pipeline.query.sql import Limits, Table, quoted, run

__all__ = ["KEPT_OF_A_PERSON", "PersonFile", "person_file"]

#: The kinds of rows that say whose they are.
KEPT_OF_A_PERSON = tuple(name for name, kind in KINDS.items() if kind.trail is not None)
_LIMITS = Limits(seconds=60, rows=5_000_000, answer=1 << 30)


class PersonFile(Model):
    """What is known of a customer, and every row of the lake and of Kafka that is of it, the oldest first.

    Columns are those of the tables of the same names ([SQL](docs/sql.md)).
    """

    customer: Customer
    as_of: Millis | None = Field(description="the moment of its memberships")
    events: list[dict[str, Any]]
    segment_transitions: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]


def person_file(
    customer: Customer, selves: Mapping[str, int], tables: Mapping[str, Table], as_of: int | None
) -> PersonFile:
    """``selves``: identifier -> from when on (ms) its rows are the customer's; ``tables``: of `KEPT_OF_A_PERSON`.

    Blocks: call it in a thread. Raises `SqlError`.
    """
    rows = {name: _rows(name, selves, tables) for name in KEPT_OF_A_PERSON}
    return PersonFile(customer=customer, as_of=as_of, **rows)


def _rows(name: str, selves: Mapping[str, int], tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    whose = " OR ".join(f"(customer = {quoted(key)} AND {_from(since)})" for key, since in selves.items())
    if name == "events":
        # What counts for nobody, as a robot's, may still name it.
        named = " OR ".join(f"({_names(key)} AND {_from(since)})" for key, since in selves.items())
        whose += f" OR (customer IS NULL AND ({named}))"
    found, _ = run(f'SELECT * FROM {name} WHERE {whose} ORDER BY time, lane, "offset"', {name: tables[name]}, _LIMITS)
    json = KINDS[name].json
    return [{key: _plain(value, key in json) for key, value in row.items()} for row in found.to_pylist()]


def _plain(value: Any, json: bool) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp() * 1000)
    return orjson.loads(value) if json and value is not None else value


def _names(key: str) -> str:
    """Whether an event says the identifier ``key``."""
    _, kind, value = key.split("|", 2)
    # As `identifier` has it.
    column = f"lower({IDENTIFYING[kind]})" if kind == "e" else IDENTIFYING[kind]
    return f"{column} = {quoted(value)}"


def _from(since: int) -> str:
    return f"time >= make_timestamptz({since * 1000})"
