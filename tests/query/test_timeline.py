"""Timelines in pages, of all events or some: every event once, the newest first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.query.reader import Reader
from pipeline.stream.kafka import Kafka

DAY = 86_400_000
NOW = 1_790_000_000_000
ANN = "acme|u|ann"

_events = st.lists(
    st.tuples(
        st.integers(0, 7 * DAY).map(lambda ago: ago - ago % (DAY // 3)),  # many at the same moment
        st.sampled_from(["web", "app"]),
        st.sampled_from(["Viewed", "Bought"]),
        st.sampled_from([ANN, ANN, "acme|u|ann2"]),
    ),
    max_size=40,
)


def record(number: int, event: tuple[int, str, str, str]) -> Any:
    ago, source, name, customer = event
    value = {
        "id": f"m{number}",
        "source": source,
        "name": name,
        "customer": customer,
        "time": NOW - ago,
        "channel": "Web",
    }
    return SimpleNamespace(
        topic="history", partition=0, offset=number, timestamp=NOW, key=b"", value=orjson.dumps(value)
    )


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_events, limit=st.integers(1, 9), source=st.none() | st.sampled_from(["web", "app", "none"]))
def test_pages_have_every_event_once_the_newest_first(
    tmp_path_factory: Any, events: list[Any], limit: int, source: str | None
) -> None:
    asyncio.run(_pages(tmp_path_factory, events, limit, source))


async def _pages(tmp_path_factory: Any, events: list[Any], limit: int, source: str | None) -> None:
    reader = Reader(Kafka("nowhere:9"), 1, tmp_path_factory.mktemp("timeline") / "store")
    try:
        records = [record(number, event) for number, event in enumerate(events)]
        if records:
            reader._index_records(records)
        found: list[dict[str, Any]] = []
        before: str | None = None
        wanted = {} if source is None else {"source": source}
        while True:
            items, before = reader.timeline(ANN, NOW, limit=limit, before=before, wanted=wanted)
            assert len(items) <= limit
            found += items
            if before is None:
                break
            assert len(items) == limit
        ours = [orjson.loads(each.value) for each in records]
        ours = [each for each in ours if each["customer"] == ANN and source in (None, each["source"])]
        assert sorted(each["id"] for each in found) == sorted(each["id"] for each in ours)
        times = [each["time"] for each in found]
        assert times == sorted(times, reverse=True)
    finally:
        reader._store.close()
