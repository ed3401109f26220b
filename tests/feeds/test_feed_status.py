"""What a source's state comes to, of what its consumers told."""

from __future__ import annotations

from typing import Any

from pipeline.feeds.status import STALE_MS, status_of
from pipeline.models.control import Source
from pipeline.models.feeds import FeedStatus

NOW = 10_000_000


def source(**fields: Any) -> Source:
    return Source(
        id="s", partner="p", name="s", code="s", bridge="queue-mqtt", version=1, created=0, updated=0, **fields
    )


def told(number: int, state: Any, reason: str = "", as_of: int = NOW) -> FeedStatus:
    return FeedStatus(
        partner="p",
        source="s",
        number=number,
        version=1,
        state=state,
        reason=reason,
        since=0,
        as_of=as_of,
        lane=0,
        process="host:1",
    )


def test_the_worst_of_the_consumers_is_the_source_s_state() -> None:
    running, waiting, fault = told(0, "running"), told(1, "waiting", "away"), told(2, "fault", "password")
    assert status_of(source(), 1, [running], NOW).state == "running"
    assert status_of(source(), 2, [running, waiting], NOW).reason == "away"
    found = status_of(source(), 3, [fault, running, waiting], NOW)
    assert (found.state, found.reason) == ("fault", "password")


def test_consumers_that_the_source_has_no_more_do_not_count() -> None:
    assert status_of(source(), 1, [told(0, "running"), told(1, "fault")], NOW).state == "running"


def test_old_word_is_nobody_s() -> None:
    found = status_of(source(), 1, [told(0, "running", as_of=NOW - STALE_MS)], NOW)
    assert found.state == "unknown"
    assert "headrace bridge" in found.reason
    assert status_of(source(), 1, [], NOW).state == "unknown"


def test_a_source_that_is_off_is_off_whatever_was_told() -> None:
    assert status_of(source(active=False), 1, [told(0, "running")], NOW).state == "off"
