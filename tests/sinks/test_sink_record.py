"""Reading a dispatch record: any bytes are read or refused; what was read can be written again."""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson
import pytest
from aiokafka import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.delivery import Dispatch, Undeliverable
from pipeline.sinks.record import (
    MAX_BYTES,
    Place,
    Unreadable,
    delayed,
    give_up,
    headers_of,
    place_of,
    read_dispatch,
)

GOOD: dict[str, Any] = {
    "id": "d1",
    "partner": "acme",
    "integration": "crm",
    "rule": "r",
    "name": "Seen",
    "event": {"id": "m1"},
    "customer": {"id": "c1"},
    "created": 1,
}


def record(value: bytes | None, headers: Any = (), key: bytes | None = b"c1") -> ConsumerRecord:
    return ConsumerRecord("t", 1, 7, 0, 0, key, value, None, 0, 0, tuple(headers))


def test_what_is_delayed_is_the_same_record_with_its_attempts() -> None:
    value = orjson.dumps({**GOOD, "event": {"a": 1}}).replace(b'{"a":1}', b'{"a": 1.50, "n":1180591620717411303424}')
    again = delayed(read_dispatch(value, "acme", "crm"), 2, 99, 50)
    assert b'{"a": 1.50, "n":1180591620717411303424}' in again, "to the byte"
    read = Dispatch.model_validate_json(again)
    assert (read.id, read.attempt, read.due, read.first_failed, read.created) == ("d1", 2, 99, 50, 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\x00\xff\xfe garbage",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"[" * 100_000,
        orjson.dumps(GOOD)[:-1],
        orjson.dumps({**GOOD, "created": "1"}),
        orjson.dumps({**GOOD, "partner": "other"}),
        orjson.dumps({**GOOD, "integration": "other"}),
        orjson.dumps({**GOOD, "attempt": -5}),
        orjson.dumps({**GOOD, "attempt": 10**9}),
        orjson.dumps({**GOOD, "id": "x" * 1000}),
        orjson.dumps({**GOOD, "name": "x" * 100_000}),
        orjson.dumps({**GOOD, "event": "x" * MAX_BYTES}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_dispatch_record_is_refused(value: bytes | None) -> None:
    with pytest.raises(Unreadable):
        read_dispatch(value, "acme", "crm")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(changes=st.dictionaries(st.sampled_from([*GOOD, "attempt", "due", "first_failed", "test"]), JSON))
def test_whatever_is_read_can_be_delayed_and_given_up(changes: dict[str, Any]) -> None:
    value = json.dumps(GOOD | changes).encode()
    try:
        found = read_dispatch(value, "acme", "crm")
    except Unreadable:
        found = None
    else:
        again = read_dispatch(delayed(found, found.attempt + 1, 5, found.first_failed or 5), "acme", "crm")
        assert again.attempt == found.attempt + 1
        orjson.loads(give_up(found, record(value), "exhausted", "why", 3))
    kept = Undeliverable.model_validate_json(give_up(None, record(value), "unreadable", "why", 3))
    assert base64.b64decode(kept.value or "") == value


@given(st.binary())
def test_no_bytes_raise_anything_else(value: bytes) -> None:
    with pytest.raises(Unreadable):
        read_dispatch(value, "acme", "crm")


def test_the_place_survives_its_headers() -> None:
    assert place_of(record(b"x", headers_of(Place(12, 3)))) == Place(12, 3)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("origin", b"1")],
        [("origin", b"1"), ("hop", b"x")],
        [("origin", b"1"), ("hop", b"")],
        [("origin", None), ("hop", b"1")],
        [("origin", b"\xff"), ("hop", b"1")],
    ],
)
def test_headers_without_a_place(headers: list[tuple[str, Any]]) -> None:
    assert place_of(record(b"x", headers)) is None
