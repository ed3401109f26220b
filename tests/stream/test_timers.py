"""Timers: in order, due up to and including the moment, and as lasting as the table that they stand in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.stream.store import Store, Table
from pipeline.stream.timers import Timers
from pipeline.stream.transaction import Transaction

timers = Timers("timers")


def opened(path: Path) -> Store:
    """A store whose timers are an index of its deadlines, as fan-out has it."""

    def timer(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
        return (Timers.entry(int(value), key), b"") if value else None

    tables = [Table("deadlines", "log", "timers", timer), Table("timers", None)]
    return Store(path, {table.name: table for table in tables})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = opened(tmp_path / "0")
    yield found
    found.close()


def transaction(store: Store) -> Transaction:
    """One that nothing leaves."""
    return Transaction(0, 1, store, None)  # type: ignore[arg-type]


def commit(store: Store, *, set_: Mapping[bytes, int] | None = None, cancel: Mapping[bytes, int] | None = None) -> None:
    txn = transaction(store)
    for key, deadline in (set_ or {}).items():
        timers.set(txn, deadline, key)
    for key, deadline in (cancel or {}).items():
        timers.cancel(txn, deadline, key)
    store.write(txn.changes, {})


def due(store: Store, moment: int) -> list[tuple[int, bytes]]:
    return list(timers.due(transaction(store), moment))


def test_timers_come_in_the_order_of_their_deadlines_up_to_and_including_the_moment(store: Store) -> None:
    # 255 and 256: what a little-endian or a decimal order would get wrong.
    commit(store, set_={b"c": 256, b"b": 255, b"a": 1_700_000_000_000, b"d": 255, b"e": 9})
    assert due(store, 8) == []
    assert due(store, 9) == [(9, b"e")]
    assert due(store, 254) == [(9, b"e")]
    assert due(store, 255) == [(9, b"e"), (255, b"b"), (255, b"d")]
    assert [key for _, key in due(store, 1_699_999_999_999)] == [b"e", b"b", b"d", b"c"]
    assert due(store, 1_700_000_000_000)[-1] == (1_700_000_000_000, b"a")


def test_a_key_may_have_several_timers_and_only_the_one_that_is_cancelled_is_gone(store: Store) -> None:
    commit(store, set_={b"a": 1})
    commit(store, set_={b"a": 2, b"": 2})
    commit(store, cancel={b"a": 1, b"never set": 1})
    assert due(store, 5) == [(2, b""), (2, b"a")]


def test_a_timer_of_a_transaction_that_is_dropped_was_never_set_and_one_cancelled_in_it_stands(store: Store) -> None:
    commit(store, set_={b"a": 1})
    txn = transaction(store)
    timers.cancel(txn, 1, b"a")
    timers.set(txn, 2, b"b")
    assert due(store, 5) == [(1, b"a")]


async def test_timers_are_there_after_a_restart_and_after_a_restore(tmp_path: Path) -> None:
    store = opened(tmp_path / "0")
    commit(store, set_={b"a": 2, b"b": 1})
    store.close()
    store = opened(tmp_path / "0")
    assert due(store, 2) == [(1, b"b"), (2, b"a")]
    store.close()
    rebuilt = opened(tmp_path / "1")
    await rebuilt.restored("log", {b"a": b"2", b"b": b"1", b"none": b""}, 3, {})
    assert due(rebuilt, 2) == [(1, b"b"), (2, b"a")]
    rebuilt.close()


def test_what_a_transaction_has_cancelled_is_not_due_in_it(store: Store) -> None:
    """Else a lane in which somebody leaves each second would never say that it is up to the second."""
    commit(store, set_={b"a": 1, b"b": 2, b"c": 9})
    txn = transaction(store)
    timers.cancel(txn, 1, b"a")
    assert list(timers.due(txn, 5)) == [(2, b"b")]
    for deadline, key in timers.due(txn, 5):
        timers.cancel(txn, deadline, key)
    assert list(timers.due(txn, 5)) == []
    assert due(store, 5) == [(1, b"a"), (2, b"b")], "nothing of it is committed"
