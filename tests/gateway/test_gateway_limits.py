"""Rates and quotas of a source, by one gateway and over several."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bridges.base import Refused
from pipeline.gateway.limits import Limits
from pipeline.models.control import Source
from pipeline.models.policy import Policy

NOON = 1_790_000_000 // 86_400 * 86_400 + 43_200.0


def source(**policy: Any) -> Source:
    return Source(
        id="web",
        partner="acme",
        name="Web",
        code="web",
        bridge="rest",
        version=1,
        created=0,
        updated=0,
        policy=Policy(**policy),
    )


def taken(limits: Limits, of: Source, count: int, now: float) -> int:
    """The events taken: ``count`` or 0."""
    try:
        limits.take(of, count, now)
    except Refused:
        return 0
    return count


def test_a_source_without_limits_has_none() -> None:
    limits = Limits("a")
    assert sum(taken(limits, source(), 1000, NOON) for _ in range(1000)) == 1_000_000
    assert limits.tell(NOON) is None


def test_a_rate_lets_a_second_of_it_through_at_once_and_then_the_rate() -> None:
    limits, slow = Limits("a"), source(rate=10)
    assert sum(taken(limits, slow, 1, NOON) for _ in range(100)) == 10
    assert sum(taken(limits, slow, 1, NOON + n / 100) for n in range(1, 501)) == pytest.approx(50, abs=2)


def test_a_batch_larger_than_the_rate_is_taken_whole_and_waited_for() -> None:
    limits, slow = Limits("a"), source(rate=10)
    limits.take(slow, 100, NOON)
    with pytest.raises(Refused) as caught:
        limits.take(slow, 1, NOON + 1)
    assert (caught.value.code, caught.value.retry_after) == ("rate", 8)
    limits.take(slow, 1, NOON + 9.2)


def test_a_quota_ends_with_the_day() -> None:
    limits, few = Limits("a"), source(daily=100)
    assert taken(limits, few, 60, NOON) == 60
    assert taken(limits, few, 60, NOON) == 0
    assert taken(limits, few, 40, NOON) == 40
    with pytest.raises(Refused) as caught:
        limits.take(few, 1, NOON + 3600)
    assert (caught.value.code, caught.value.retry_after) == ("quota", 43_200 - 3600)
    assert taken(limits, few, 100, NOON + 43_200) == 100


@settings(max_examples=60, deadline=None)
@given(
    gateways=st.integers(1, 4),
    rate=st.sampled_from([5, 50, 500]),
    weights=st.lists(st.integers(0, 5), min_size=4, max_size=4),
)
def test_over_all_gateways_the_rate_holds_and_is_used(gateways: int, rate: int, weights: list[int]) -> None:
    """However the load is spread: in 20 s not more than the rate and what a second of news lets through."""
    weights = [weight or 1 for weight in weights[:gateways]]
    all_of_them = [Limits(str(n)) for n in range(gateways)]
    of, sum_taken, offered = source(rate=rate), 0, 0
    for step in range(20 * 10):
        now = NOON + step / 10
        for limits, weight in zip(all_of_them, weights, strict=True):
            wanted = max(1, weight * rate // 5)
            for _ in range(min(wanted, 10)):
                each = max(1, wanted // 10)
                offered += each
                sum_taken += taken(limits, of, each, now)
        if step % 5 == 4:
            for limits in all_of_them:
                told = limits.tell(now)
                for other in all_of_them:
                    other.hear(limits.name, told)
    # Each may begin with a whole rate and a second of it, before it hears of the others; and a batch is taken whole.
    assert sum_taken <= rate * (20 + 2 * gateways) + 50 * gateways
    assert sum_taken >= 0.75 * min(offered, 20 * rate)


def test_over_all_gateways_a_quota_counts_what_each_has_told() -> None:
    first, second = Limits("a"), Limits("b")
    few = source(daily=100)
    assert taken(first, few, 70, NOON) == 70
    second.hear("a", first.tell(NOON + 0.5))
    assert taken(second, few, 40, NOON + 1) == 0
    assert taken(second, few, 30, NOON + 1) == 30
    first.hear("b", second.tell(NOON + 1.5))
    assert taken(first, few, 1, NOON + 2) == 0
    # The next day nothing of it counts.
    assert taken(first, few, 100, NOON + 43_200) == 100


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"time": 1}', b'{"time": "x", "sources": {}}', None, b"\xff"])
def test_what_cannot_be_read_is_passed_over(value: bytes | None) -> None:
    limits = Limits("a")
    limits.hear("b", value)
    assert taken(limits, source(daily=1), 1, NOON) == 1
