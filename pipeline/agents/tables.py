"""Fan-out's tables, and how their keys and values are written."""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import orjson

from pipeline.segments.counts import Flow, Row, RowKey
from pipeline.stream.store import Table
from pipeline.stream.timers import Timers
from pipeline.stream.transaction import Transaction

__all__ = [
    "CUSTOMERS",
    "STATE",
    "TABLES",
    "TIMERS",
    "Redirected",
    "count_key",
    "count_row",
    "flow_key",
    "flow_row",
    "redirect",
    "redirected",
    "seen_digest",
    "step_of",
]

CUSTOMERS = "customers"
STATE = "state"
TIMERS = "timers"

#: Key prefixes within `STATE`.
SEEN, COUNT, FLOW, SEGMENT, SWEEP, FENCE, MAILING = b"d", b"n", b"m", b"s", b"w", b"f", b"x"
CLOCK, FENCES = b"clock", b"fences"
DAY_MS = 86_400_000
#: Customers that one step of a sweep, or one round of timers, takes, so that live events are not held up.
STEP = 128
_REDIRECT = b'{"redirect":'


class _Deadline(msgspec.Struct, gc=False):
    deadline: int | None = None


_deadline = msgspec.json.Decoder(_Deadline).decode


class Redirected(NamedTuple):
    """Where the customer is that was under an identifier. What happened under it before ``since`` (ms) stayed there."""

    to: str
    since: int


def redirect(to: str, since: int = 0) -> bytes:
    """A `Redirect` as it stands in `CUSTOMERS`."""
    return _REDIRECT + orjson.dumps(to) + (f',"since":{since}}}'.encode() if since > 0 else b"}")


def redirected(value: bytes) -> Redirected | None:
    """Where a value of `CUSTOMERS` redirects to; None for a customer's record."""
    if not value.startswith(_REDIRECT):
        return None
    row = orjson.loads(value)
    return Redirected(row["redirect"], row.get("since", 0))


def _timer_of(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    """The timer of a restored customer; entries that newer records replaced are dropped when they fire."""
    deadline = None if value.startswith(_REDIRECT) else _deadline(value).deadline
    return None if deadline is None else (Timers.entry(deadline, key), b"")


def seen_digest(partner: str, source: str, message_id: str) -> bytes:
    """Of a message id: 12 bytes; two of a billion ids of a day agree with a chance of 1 in 10^11."""
    return blake2b(f"{partner}|{source}|{message_id}".encode(), digest_size=12).digest()


def count_key(partner: str, row: RowKey) -> bytes:
    """Of a row of a partner's counts."""
    return COUNT + orjson.dumps([partner, *row])


def count_row(key: bytes, value: bytes) -> tuple[str, RowKey, Row]:
    """Partner, row key and numbers back from `count_key` and its JSON value."""
    partner, segment, source, channel = orjson.loads(key[len(COUNT) :])
    customers, identified = orjson.loads(value)
    return partner, (segment, source, channel), (customers, identified)


def flow_key(partner: str, minute: int, row: RowKey) -> bytes:
    """Of what moved a row in a minute (since 1970) that is not over."""
    return FLOW + orjson.dumps([minute, partner, *row])


def flow_row(key: bytes, value: bytes) -> tuple[str, int, RowKey, Flow]:
    """Partner, minute, row key and numbers back from `flow_key` and its JSON value."""
    minute, partner, segment, source, channel = orjson.loads(key[len(FLOW) :])
    return partner, minute, (segment, source, channel), Flow(*orjson.loads(value))


def segment_key(partner: str, segment: str) -> bytes:
    """Of what the lane knows about a segment."""
    return SEGMENT + f"{partner}|{segment}".encode()


def mailing_key(partner: str, mailing: str) -> bytes:
    """Of how far the lane is with a mailing."""
    return MAILING + f"{partner}|{mailing}".encode()


def sweep_key(partner: str) -> bytes:
    """Of the cursor of a partner's sweep."""
    return SWEEP + partner.encode()


def step_of(partner: str, cursor: str, txn: Transaction, most: int = STEP) -> list[bytes]:
    """The next keys of a partner's customers, in their order, behind ``cursor``; from the first where it is empty."""
    start = f"{cursor}\0" if cursor else f"{partner}|"
    return [key for key, _ in islice(txn.scan(CUSTOMERS, start.encode(), f"{partner}}}".encode()), most)]


def dumps(value: Any) -> bytes:
    """JSON of plain values."""
    return orjson.dumps(value)


TABLES = (
    Table(CUSTOMERS, "customers", index_table=TIMERS, index=_timer_of),
    Table(STATE, "fanout.state"),
    Table(TIMERS, None),
)
