"""Days of time zones: 23 and 25 hours, no midnight, half an hour, a day that never was; windows of them (case 4)."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.window import Window
from pipeline.segments.spans import day_of, day_start, known_zone, span_of

HOUR = 3_600_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()


@pytest.mark.parametrize(
    ("zone", "text", "start", "hours"),
    [
        ("UTC", "2024-02-29", "2024-02-29T00:00Z", 24),
        ("Europe/Berlin", "2024-03-31", "2024-03-30T23:00Z", 23),
        ("Europe/Berlin", "2024-10-27", "2024-10-26T22:00Z", 25),
        # The clock goes from 24:00 to 1:00: the day begins at 1:00.
        ("America/Santiago", "2023-09-03", "2023-09-03T04:00Z", 23),
        ("Asia/Beirut", "2024-03-31", "2024-03-30T22:00Z", 23),
        # The clock goes back from 24:00 to 23:00 of the day before, which has 25 hours.
        ("America/Santiago", "2024-04-06", "2024-04-06T03:00Z", 25),
        ("Asia/Kolkata", "2024-01-01", "2023-12-31T18:30Z", 24),
        # Summer time is half an hour.
        ("Australia/Lord_Howe", "2024-04-07", "2024-04-06T13:00Z", 24.5),
        # The clock goes back from 0:01 to 23:01: the day that had begun goes on.
        ("America/St_Johns", "2010-11-07", "2010-11-07T02:30Z", 25),
        # The 30th of December 2011 never was there.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00Z", 0),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00Z", 24),
    ],
)
def test_a_day_begins_with_the_first_instant_of_its_date(zone: str, text: str, start: str, hours: float) -> None:
    number = day(text)
    assert day_start(number, zone) == ms(start)
    assert day_start(number + 1, zone) - day_start(number, zone) == hours * HOUR
    if hours:
        assert day_of(ms(start), zone) == number
        assert day_of(ms(start) - 1, zone) < number
        assert day_of(day_start(number + 1, zone) - 1, zone) == number


ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Santiago",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Beirut",
]


@given(st.sampled_from(ZONES), st.integers(ms("2006-01-01T00:00Z"), ms("2027-01-01T00:00Z")), st.integers(0, 9 * HOUR))
def test_days_follow_each_other_as_time_passes(zone: str, time: int, passed: int) -> None:
    number = day_of(time, zone)
    assert day_start(number, zone) <= time < day_start(number + 1, zone)
    assert day_of(time + passed, zone) >= number


@given(
    st.sampled_from(ZONES),
    st.integers(1, 40),
    st.integers(ms("2011-11-01T00:00Z"), ms("2026-01-01T00:00Z")),
    st.integers(0, 45 * 24 * HOUR),
)
def test_an_event_is_in_a_calendar_window_until_its_end_and_no_millisecond_longer(
    zone: str, days: int, time: int, passed: int
) -> None:
    span = span_of(Window.model_validate({"calendar": {"days": days, "zone": zone}}))
    end = span.end(time)
    assert end is not None
    assert span.holds(time, time)
    assert span.holds(time, time + passed) is (time + passed < end)
    assert span.holds(time, end - 1)
    assert not span.holds(time, end)


def test_seven_days_are_today_and_the_six_whole_days_before() -> None:
    span = span_of(Window.model_validate({"calendar": {"days": 7, "zone": "Europe/Berlin"}}))
    assert span.start(ms("2024-04-03T12:00+02:00")) == ms("2024-03-28T00:00+01:00")
    assert span.end(ms("2024-03-28T00:00+01:00")) == ms("2024-04-04T00:00+02:00")


def test_dates_are_whole_days_of_their_zone_and_moments_are_moments() -> None:
    span = span_of(
        Window.model_validate({"between": {"from": "2024-03-31", "to": "2024-03-31", "zone": "Europe/Berlin"}})
    )
    assert (span.low, span.high) == (ms("2024-03-31T00:00+01:00"), ms("2024-04-01T00:00+02:00"))
    span = span_of(Window.model_validate({"between": {"to": "2024-03-31T10:00:00+02:00"}}))
    assert (span.low, span.high) == (None, ms("2024-03-31T10:00+02:00"))
    assert span.end(0) is None


def test_a_zone_that_is_not_known_here_reads_as_utc() -> None:
    assert not known_zone("Mars/Olympus")
    assert known_zone("Europe/Berlin")
    assert day_start(1, "Mars/Olympus") == datetime(1970, 1, 2, tzinfo=UTC).timestamp() * 1000
