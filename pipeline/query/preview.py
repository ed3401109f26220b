"""A condition tried before it is a segment: how many customers it holds for, and some of them.

Counted over all customers where that is quick, else over a random part of them, as large as two seconds allow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from typing import Any

import orjson
import pyarrow as pa
from pydantic import Field

from pipeline.customers.past import Leaves, Past, needed_from
from pipeline.models.base import Model
from pipeline.models.control import Segment
from pipeline.query.mirror import Look
from pipeline.query.sql import Limits, Table, quoted, run
from pipeline.segments.compile import CompiledSegment, Program
from pipeline.segments.english import describe
from pipeline.segments.scopes import scopes_of

__all__ = ["Preview", "preview"]

#: Of one preview; more events that matter, or customers to be looked at, make it a random part.
MOST_EVENTS, MOST_CUSTOMERS = 200_000, 100_000
_SAMPLE = 10
_SURE = 1.96
_NOWHERE = scopes_of(("|",))


class Preview(Model):
    """``customers``: how many, or about how many: with a chance of 95 % it lies within ``margin`` of that.

    By the events that are kept, and what is known of the customers now; a segment counts by the same.
    """

    customers: int
    margin: int = Field(description="0: counted, not estimated")
    of: int = Field(description="customers there are")
    looked_at: int = Field(description="customers that were looked at")
    sample: list[str] = Field(description="some of them, by canonical id")
    says: str = Field(description="the condition in English")
    seconds: float


class _Person:
    """What a leaf looks at of a customer."""

    __slots__ = ("id", "leaves", "traits")

    def __init__(self, id: str, traits: dict[str, Any], leaves: Leaves) -> None:
        self.id, self.traits, self.leaves = id, traits, leaves


def preview(
    tried: Segment,
    others: Collection[Segment],
    look: Look,
    events: Table,
    now: int,
    *,
    most_events: int = MOST_EVENTS,
    most_customers: int = MOST_CUSTOMERS,
) -> Preview:
    """Try a condition as of ``now`` (ms). Blocks: call it in a thread. Raises `SqlError`.

    ``others``: the partner's segments, of which it may be made. ``look``: at its customers. ``events``: the table.
    """
    customers = look.customers
    compiled = Program([*others, tried]).segments[tried.id]
    leaves = [leaf for leaf in compiled.leaves if leaf.matchers]
    past = Past(leaves)
    # Whoever did nothing that it asks about may be in it, or be in it for what is known of him.
    traits = any(leaf.trait is not None for leaf in compiled.leaves)
    everybody = compiled.on_nothing or traits
    tables = {"customers": customers, "identities": look.identities, "events": events}
    where = _where(past, needed_from(leaves, now))
    matching = _number(f"SELECT count(*) FROM events WHERE {where}", tables) if leaves else 0
    there = customers.num_rows
    parts = max(1, math.ceil(matching / most_events), math.ceil(there / most_customers) if everybody else 1)
    if leaves:
        _gather(past, tables, where, parts)
    found = past.part()
    people = _people(customers, found, parts, tables, everybody=everybody, traits=traits)
    members = [person.id for person in people if _holds(compiled, person, now)]
    looked_at = len(people) if everybody else there // parts if parts > 1 else there
    return Preview(
        customers=len(members) * parts,
        margin=math.ceil(_SURE * math.sqrt(max(1, len(members)) * (1 - 1 / parts)) * parts) if parts > 1 else 0,
        of=there,
        looked_at=looked_at,
        sample=sorted(random.Random(0).sample(members, min(_SAMPLE, len(members)))),
        says=describe(tried.condition),
        seconds=0.0,
    )


def _where(past: Past, since: int | None) -> str:
    names = ", ".join(quoted(name) for name in sorted(past.names)) or "NULL"
    moment = f" AND time >= make_timestamptz({since * 1000})" if since is not None else ""
    return f"name IN ({names}) AND events.customer IS NOT NULL{moment}"


def _number(query: str, tables: dict[str, Table]) -> int:
    rows, _ = run(query, tables, Limits())
    return int(rows.column(0)[0].as_py())


def _gather(past: Past, tables: dict[str, Table], where: str, parts: int) -> None:
    """The events that matter of the part, each by who its customer is now."""
    query = f"""
        SELECT known.customer, id, source, channel, name, epoch_ms(time), properties, facts
        FROM identities known JOIN events ON events.customer = known.identifier AND events.time >= known.since
        WHERE hash(known.customer) % {parts} = 0 AND {where}
    """
    rows, _ = run(query, tables, Limits(rows=100_000_000))
    for batch in rows.to_batches(max_chunksize=20_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            past.take(*row)


def _people(
    customers: pa.Table,
    found: dict[str, Leaves],
    parts: int,
    tables: dict[str, Table],
    *,
    everybody: bool,
    traits: bool,
) -> list[_Person]:
    """Who is to be looked at."""
    if not everybody:
        return [_Person(customer, {}, leaves) for customer, leaves in found.items()]
    chosen = customers.select(["customer", "traits"])
    if parts > 1:
        query = f"SELECT customer, traits FROM customers WHERE hash(customer) % {parts} = 0"
        chosen, _ = run(query, tables, Limits(rows=100_000_000))
    return [
        _Person(customer, orjson.loads(text) if traits and text else {}, found.get(customer, {}))
        for batch in chosen.to_batches()
        for customer, text in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ]


def _holds(compiled: CompiledSegment, person: _Person, now: int) -> bool:
    """Over all that the customer did; where else he was seen alters nothing of that."""
    origins = tuple(sorted({origin for buckets in person.leaves.values() for origin in buckets}))
    scopes = scopes_of(origins) if origins else _NOWHERE
    truths = {leaf.id: leaf.truth(person, scopes, now)[0] for leaf in compiled.leaves}
    return bool(compiled.holds(truths, scopes.all) & 1)
