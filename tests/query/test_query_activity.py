"""Activity: deltas summed by minute, exactly once over restarts, forgotten after a day."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from pipeline.models.activity import Activity
from pipeline.models.control import Source, SourceKey
from pipeline.query.activity import MINUTES, NEWEST, TOPIC, Activities
from pipeline.stream.store import Store, Table

MINUTE, HOUR = 60_000, 3_600_000
NOW = 29_900_000 * MINUTE
KEY = SourceKey(id="till-1", name="Till", hash="a" * 64, created=1)
SOURCE = Source(id="app", partner="acme", name="App", code="app", version=1, created=1, updated=1, keys=[KEY])
OTHER = SOURCE.model_copy(update={"id": "app-2"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "query", {name: Table(name, None) for name in (MINUTES, NEWEST)})


def delta(at: int, offset: int = 0, **fields: Any) -> Any:
    known: dict[str, Any] = {"partner": "acme", "source": "app", "accepted": 0, "last": at}
    value = Activity(**(known | fields)).to_json()
    return SimpleNamespace(topic=TOPIC, partition=0, offset=offset, timestamp=at, value=value)


def test_what_came_in_a_minute_an_hour_and_a_day(store: Store) -> None:
    seen = Activities(store)
    seen.apply(
        [
            delta(NOW - 25 * HOUR, accepted=1000),
            delta(NOW - 23 * HOUR, accepted=100, rejected={"shape": 7, "not_json": 2}),
            delta(NOW - HOUR // 2, accepted=20, rejected={"shape": 3}, dropped={"consent": 4}),
            delta(NOW + 1000, accepted=6, accepted_last=NOW + 900),
            delta(NOW + 2000, rejected={"no_identity": 1}, last=NOW + 1500, source="app-2"),
        ]
    )
    found = seen.of(SOURCE, NOW + 30_000)
    assert (found.minute.accepted, found.minute.rejected, found.minute.rate) == (6, 0, 0.1)
    assert (found.hour.accepted, found.hour.rejected, found.hour.dropped) == (26, 3, 4)
    assert found.hour.reject_rate == round(3 / 33, 4)
    assert (found.day.accepted, found.day.rejected) == (126, 12)
    assert [(each.reason, each.count) for each in found.reasons] == [("shape", 10), ("not_json", 2)]
    assert (found.last, found.accepted_last) == (NOW + 1000, NOW + 900)
    other = seen.of(OTHER, NOW + 30_000)
    assert (other.day.accepted, other.day.rejected, other.last) == (0, 1, NOW + 1500)


def test_of_the_minute_that_is_half_outside_half_counts(store: Store) -> None:
    seen = Activities(store)
    seen.apply([delta(NOW - 1000, accepted=60)])
    assert seen.of(SOURCE, NOW).minute.accepted == 60
    assert seen.of(SOURCE, NOW + MINUTE // 2).minute.accepted == 30
    assert seen.of(SOURCE, NOW + MINUTE).minute.accepted == 0


def test_a_key_was_last_used_when_its_newest_event_came(store: Store) -> None:
    seen = Activities(store)
    assert seen.key_used("acme", "app", "till-1") is None
    seen.apply([delta(NOW, keys={"till-1": NOW - 5}), delta(NOW, keys={"till-1": NOW - 9, "gone": NOW})])
    assert seen.key_used("acme", "app", "till-1") == NOW - 5
    (key,) = seen.of(SOURCE, NOW).keys
    assert (key.id, key.name, key.last_used) == ("till-1", "Till", NOW - 5)


def test_figures_and_offsets_are_one_write_and_outlast_a_restart(store: Store, tmp_path: Path) -> None:
    Activities(store).apply([delta(NOW, 41, accepted=3), delta(NOW, 42, accepted=4)])
    store.close()
    again = Store(tmp_path / "query", {name: Table(name, None) for name in (MINUTES, NEWEST)})
    assert again.offsets == {f"{TOPIC}:0": 43}
    assert Activities(again).of(SOURCE, NOW).minute.accepted == 7


def test_minutes_older_than_a_day_are_forgotten_and_others_sources_are_left(store: Store) -> None:
    seen = Activities(store)
    seen.apply([delta(NOW - 30 * HOUR + n * MINUTE, accepted=1) for n in range(50)])
    seen.apply([delta(NOW - 30 * HOUR, accepted=1, source="app-2")])
    seen.apply([delta(NOW, accepted=1)])
    left = [orjson.loads(value) for _, value in store.scan(MINUTES)]
    assert len(left) == 2
