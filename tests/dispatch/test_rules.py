"""Rules: which events they send, and what they send."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.filter import variables
from pipeline.dispatch.rules import RuleBook, to_dispatch
from pipeline.models.control import Integration, Partner, Restriction, Rule
from pipeline.models.delivery import Dispatch

_META = {"version": 1, "created": 0, "updated": 0}


def partner(**fields: Any) -> Partner:
    return Partner(**{"id": "acme", "name": "Acme", "sending": True} | _META | fields)


def integration(**fields: Any) -> Integration:
    return Integration(**{"id": "crm", "partner": "acme", "name": "CRM", "kind": "webhook"} | _META | fields)


def rule(**fields: Any) -> Rule:
    default = {"id": "r", "partner": "acme", "event": "Wallet Coins Rewarded", "integration": "crm"}
    return Rule(**default | _META | fields)


def matched(book: RuleBook, properties: dict[str, Any] | None = None, name: str = "Wallet Coins Rewarded") -> list[str]:
    event = {"id": "m1", "type": "track", "name": name, "source": "app", "channel": "Mobile", "time": 7}
    customer = {"id": "acme|u|7", "email": "ada@shop.example", "traits": {"plan": "gold"}}
    return [found.id for found in book.match(name, properties, lambda: variables(event, properties, customer))]


def restricted(*values: Any, path: str = "type") -> RuleBook:
    restriction = Restriction.model_validate({"property": path, "values": list(values)})
    return RuleBook(partner(), [rule(restrictions=[restriction])], [integration()])


def test_a_rule_sends_its_event_and_no_other() -> None:
    book = RuleBook(partner(), [rule(), rule(id="s", event="Coupon Is Created")], [integration()])
    assert matched(book) == ["r"]
    assert matched(book, name="Coupon Is Created") == ["s"]
    assert matched(book, name="wallet coins rewarded") == []


@pytest.mark.parametrize(
    ("owner", "its_rule", "tool"),
    [
        (None, rule(), integration()),
        (partner(sending=False), rule(), integration()),
        (partner(), rule(enabled=False), integration()),
        (partner(), rule(), integration(enabled=False)),
        (partner(), rule(), integration(removed=True)),
        (partner(), rule(integration="other"), integration()),
        (partner(), rule(partner="rival"), integration()),
        (partner(), rule(), integration(partner="rival")),
    ],
    ids=["no partner", "master off", "rule off", "tool off", "removed", "no tool", "rival's rule", "rival's tool"],
)
def test_nothing_is_sent_when_a_switch_is_off_or_the_tool_is_not_there(
    owner: Partner | None, its_rule: Rule, tool: Integration
) -> None:
    assert matched(RuleBook(owner, [its_rule], [tool])) == []


@pytest.mark.parametrize(
    ("value", "passes", "refused"),
    [
        (1, [1, 1.0], [True, "1", 2, None, [1]]),
        (1.5, [1.5], ["1.5", 1, True]),
        (True, [True], [1, 1.0, "true", False]),
        (False, [False], [0, "", None, 0.0]),
        ("reward", ["reward"], ["Reward", "redeem", None, ["reward"], {"a": 1}]),
    ],
)
def test_restrictions_are_strict_by_type(value: Any, passes: list[Any], refused: list[Any]) -> None:
    book = restricted(value)
    assert [found for found in passes if not matched(book, {"type": found})] == []
    assert [found for found in refused if matched(book, {"type": found})] == []


def test_a_missing_property_never_passes() -> None:
    assert matched(restricted("a"), None) == matched(restricted("a"), {}) == []
    assert matched(restricted("a", path="x.type"), {"x": 7}) == []


def test_a_dotted_path_reads_inside_and_a_key_to_the_letter_wins() -> None:
    book = restricted("reward", path="wallet.type")
    assert matched(book, {"wallet": {"type": "reward"}}) == ["r"]
    assert matched(book, {"wallet.type": "reward"}) == ["r"]
    assert matched(book, {"wallet.type": "redeem", "wallet": {"type": "reward"}}) == []


def test_every_restriction_must_hold() -> None:
    two = [Restriction(property="type", values=["reward"]), Restriction(property="op", values=["credited", "debited"])]
    book = RuleBook(partner(), [rule(restrictions=two)], [integration()])
    assert matched(book, {"type": "reward", "op": "debited"}) == ["r"]
    assert matched(book, {"type": "reward"}) == matched(book, {"type": "redeem", "op": "debited"}) == []


_scalar = st.text(max_size=3) | st.integers(-2, 2) | st.floats(-2, 2) | st.booleans()


def _kind(value: Any) -> str:
    """The kind JSON writes: an oracle that shares no code with the rule."""
    return {"t": "bool", "f": "bool", '"': "text"}.get(orjson.dumps(value).decode()[0], "number")


@given(values=st.lists(_scalar, min_size=1, max_size=5), found=_scalar | st.none() | st.lists(_scalar, max_size=2))
def test_a_restriction_passes_just_what_equals_a_value_of_its_kind(values: list[Any], found: Any) -> None:
    scalar = isinstance(found, str | int | float)
    expected = scalar and any(_kind(v) == _kind(found) and v == found for v in values)
    assert bool(matched(restricted(*values), {"type": found})) == expected


EVENT = {"id": "m1", "source": "online-store", "name": "Wallet Coins Rewarded", "properties": {"amount": 3}}
CUSTOMER = {"id": "acme|u|7", "user_id": "7", "email": None, "traits": {}}


def test_a_dispatch_record_is_its_model_with_the_prefixed_name() -> None:
    (found,) = RuleBook(partner(), [rule(prefix="Nector ")], [integration()]).match("Wallet Coins Rewarded", None, dict)
    made = to_dispatch(found, EVENT, CUSTOMER, 1000)
    assert found.topic == "dispatch.acme.crm"
    assert Dispatch.model_validate(made).model_dump(exclude_defaults=True) == made
    assert (made["name"], made["created"]) == ("Nector Wallet Coins Rewarded", 1000)
    assert made["event"]["name"] == "Wallet Coins Rewarded", "the event itself stays as it was"


def test_what_a_rule_maps_goes_with_the_record() -> None:
    mapping = {"value": "$.event.properties.amount"}
    (found,) = RuleBook(partner(), [rule(mapping=mapping)], [integration()]).match("Wallet Coins Rewarded", None, dict)
    assert to_dispatch(found, EVENT, CUSTOMER, 1)["mapping"] == mapping
    (found,) = RuleBook(partner(), [rule()], [integration()]).match("Wallet Coins Rewarded", None, dict)
    assert "mapping" not in to_dispatch(found, EVENT, CUSTOMER, 1)


def test_the_id_is_the_same_on_replay_whatever_the_time_or_prefix() -> None:
    (one,) = RuleBook(partner(), [rule()], [integration()]).match("Wallet Coins Rewarded", None, dict)
    (two,) = RuleBook(partner(), [rule(prefix="x")], [integration()]).match("Wallet Coins Rewarded", None, dict)
    assert to_dispatch(one, EVENT, CUSTOMER, 1)["id"] == to_dispatch(two, EVENT, CUSTOMER, 2)["id"]


_part = st.text(max_size=4)


def made_id(source: str, message: str) -> str:
    (found,) = RuleBook(partner(), [rule()], [integration()]).match("Wallet Coins Rewarded", None, dict)
    made: str = to_dispatch(found, EVENT | {"source": source, "id": message}, CUSTOMER, 0)["id"]
    return made


@given(one=st.tuples(_part, _part), two=st.tuples(_part, _part))
def test_ids_differ_where_the_event_does(one: tuple[str, str], two: tuple[str, str]) -> None:
    assert (made_id(*one) == made_id(*two)) == (one == two)
