"""Filters of rules: what passes, what can't be told, what is refused at save, and that nothing hostile gets far."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rules import integration, matched, partner, rule

from pipeline.dispatch.filter import Filter, FilterError, variables
from pipeline.dispatch.rules import RuleBook

EVENT = {
    "id": "m1",
    "type": "track",
    "name": "Order Completed",
    "source": "app",
    "channel": "Mobile",
    "time": 1_700_000,
}
CUSTOMER = {"id": "acme|u|7", "user_id": "7", "email": "ada@shop.example", "traits": {"plan": "gold", "age": 41}}
PROPERTIES: dict[str, Any] = {"total": 120.5, "items": [{"sku": "a", "price": 3}, {"sku": "b", "price": 9}], "n": None}


def admits(text: str, properties: Any = PROPERTIES) -> bool:
    return Filter(text).admits(variables(EVENT, properties, CUSTOMER))


@pytest.mark.parametrize(
    "text",
    [
        "properties.total > 100.0",
        "properties.total > 100 && event.channel == 'Mobile'",
        "event.name.startsWith('Order') && event.time < 1700001",
        "traits.plan in ['gold', 'silver'] && traits.age >= 18",
        "customer.email.endsWith('@shop.example')",
        "properties.items.exists(item, item.price > 5)",
        "size(properties.items) == 2",
        "!has(properties.coupon)",
        "properties.n == null",
        "customer.email.matches('^[a-z]+@')",
        "'a.map(b, c).filter(d, e)' != '' && properties.items.all(i, i.price > 1)",
    ],
)
def test_what_is_true_lets_pass(text: str) -> None:
    assert admits(text)


@pytest.mark.parametrize(
    "text",
    [
        "properties.total > 200.0",
        "properties.coupon == 'X'",
        "properties.total == '120.5'",
        "traits.plan",
        "1 / 0 == 1",
        "customer.email.matches('(')",
        "properties.items[7].price > 1",
        "properties.total + 'x' == 'x'",
    ],
)
def test_what_is_false_or_can_not_be_told_lets_nothing_pass(text: str) -> None:
    assert not admits(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("properties.total >", "no CEL"),
        ("price > 1", "price"),
        ("properties.total.sqrt() > 1.0", "sqrt"),
        ("properties.items.all(a, properties.items.exists(b, a == b))", "once"),
        ("(" * 900 + "true" + ")" * 900, "no CEL"),
    ],
)
def test_what_is_no_filter_is_refused_and_says_why(text: str, says: str) -> None:
    with pytest.raises(FilterError, match=says):
        Filter(text)


@given(st.text(max_size=200) | st.text(alphabet="()[]{}!-.&|<>=?:'\"ab1 ", max_size=300))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with contextlib.suppress(FilterError):
        assert Filter(text).admits(variables(EVENT, PROPERTIES, CUSTOMER)) in (True, False)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["total", "items", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["total", "items", "n", "x"]), json))
def test_no_event_makes_one_raise(properties: dict[str, Any]) -> None:
    for text in ("properties.total > 100.0", "properties.items.exists(i, i.price > 5)", "size(properties.n) > 1"):
        assert admits(text, properties) in (True, False)


def test_a_rule_looks_at_restrictions_first_and_at_the_filter_only_then() -> None:
    book = RuleBook(partner(), [rule(filter="properties.total > 100 && traits.plan == 'gold'")], [integration()])
    assert matched(book, {"total": 101}) == ["r"]
    assert matched(book, {"total": 99}) == []
    assert matched(book) == []


def test_what_a_filter_looks_at_is_made_once_an_event_and_only_where_one_looks() -> None:
    made: list[int] = []

    def known() -> dict[str, Any]:
        made.append(1)
        return variables(EVENT, PROPERTIES, CUSTOMER)

    rules = [
        rule(id="a", filter="true"),
        rule(id="b", filter="true"),
        rule(id="c", event="Other", filter="true"),
        rule(id="d", event="Plain"),
    ]
    book = RuleBook(partner(), rules, [integration()])
    assert len(book.match("Wallet Coins Rewarded", PROPERTIES, known)) == 2
    assert made == [1]
    assert len(book.match("Plain", PROPERTIES, known)) == 1
    assert made == [1]


def test_a_filter_that_came_past_the_api_stops_its_own_rule_alone(caplog: pytest.LogCaptureFixture) -> None:
    book = RuleBook(partner(), [rule(id="bad", filter="((("), rule(id="good")], [integration()])
    assert matched(book) == ["good"]
    assert "bad" in caplog.text
