"""The retry schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.schedule import Schedule
from pipeline.models.window import duration_ms
from pipeline.settings import Settings


def test_the_tier_follows_the_attempts_until_the_record_is_given_up() -> None:
    schedule = Schedule.parse("5s, 5m,10h,10h")
    assert [delay and delay.tier for delay in map(schedule.after, range(1, 6))] == ["5s", "5m", "10h", "10h", None]
    assert schedule.tiers == ("5s", "5m", "10h"), "one topic a distinct delay"


def test_the_default_schedule_is_the_design_s() -> None:
    assert tuple(delay.tier for delay in Schedule.parse(Settings().retry_schedule).delays) == (
        "5s",
        "5m",
        "30m",
        "2h",
        "5h",
        "10h",
        "10h",
    )


def test_a_delay_comes_out_in_milliseconds() -> None:
    assert [d.ms for d in Schedule.parse("1ms,2s,3m,4h,5d").delays] == [1, 2_000, 180_000, 14_400_000, 432_000_000]


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_schedule_is_one_attempt(text: str) -> None:
    schedule = Schedule.parse(text)
    assert schedule.tiers == ()
    assert schedule.after(1) is None


def test_there_is_no_due_time_after_the_last_attempt() -> None:
    with pytest.raises(ValueError, match="ends after 2 attempts"):
        Schedule.parse("5s").due("d", 2, 0)


@pytest.mark.parametrize(
    "text", ["5", "5s,,5m", "0s", "-5s", "1.5s", "5s;5m", "5 s", "5S", "05s", "6d", "121h", "1w", "s", "٥s", "5s\x00"]
)
def test_a_wrong_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="retry schedule"):
        Schedule.parse(text)


@given(name=st.text(), tier=st.sampled_from(["200ms", "5s", "10h"]), now=st.integers(0, 2**42))
def test_jitter_stays_in_its_bounds_and_is_deterministic(name: str, tier: str, now: int) -> None:
    schedule = Schedule.parse(tier)
    due = schedule.due(name, 1, now)
    assert 0.8 * duration_ms(tier) <= due - now <= 1.2 * duration_ms(tier)
    assert due == schedule.due(name, 1, now)


def test_jitter_spreads() -> None:
    schedule = Schedule.parse("10h,10h")
    hours = [schedule.due(f"d{n}", 1, 0) / 3_600_000 for n in range(300)]
    assert min(hours) < 8.3
    assert max(hours) > 11.7
    assert schedule.due("d", 1, 0) != schedule.due("d", 2, 0)
