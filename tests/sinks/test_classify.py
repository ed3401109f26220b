"""What an HTTP status and ``Retry-After`` mean."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sinks.classify import MAX_RETRY_AFTER_S, classify_status, retry_after


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [
        ("ok", [200, 201, 204, 299]),
        ("setup", [300, 301, 302, 303, 304, 307, 308, 401, 403, 404, 410]),
        ("throttle", [429]),
        ("invalid", [400, 402, 405, 409, 413, 415, 422, 451, 499]),
        ("transient", [100, 199, 408, 421, 425, 500, 502, 503, 504, 599, 600, 999]),
    ],
)
def test_answers_are_classified_by_status(outcome: str, statuses: list[int]) -> None:
    assert [status for status in statuses if classify_status(status, {}).outcome != outcome] == []


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thursday, 01-Jan-70 00:01:00 GMT", 50.0),
        ("Thu Jan  1 00:01:00 1970", 50.0),
        ("Thu, 01 Jan 1970 00:01:00 -0000", 50.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 00:00:00 GMT", 3600.0),
        ("9" * 5000, 3600.0),
        ("soon", None),
        ("1.5", None),
        ("-1", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, 10.0) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ .*"))
def test_no_retry_after_raises_or_leaves_its_bounds(text: str) -> None:
    seconds = retry_after(text, 10.0)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


def test_throttling_carries_what_the_tool_asks_for() -> None:
    assert classify_status(429, {"retry-after": "7"}).retry_after == 7.0
    assert classify_status(429, {"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 10.0).retry_after == 50.0
    assert classify_status(429, {}).retry_after is None
