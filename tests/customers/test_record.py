"""The working copy and its wire form."""

from __future__ import annotations

import pytest
from customers_world import Happening, T, happenings, program
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.customers.apply import apply_event
from pipeline.customers.evaluate import evaluate
from pipeline.customers.record import Record, is_identified
from pipeline.models.customer import Customer

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text('ab🧥"|', max_size=3), inner)),
    max_leaves=4,
)


@settings(max_examples=100, deadline=None)
@given(happenings, st.dictionaries(st.text("xyz🧥", max_size=3), JSON, max_size=4))
def test_the_wire_is_a_customer_and_comes_back_the_same(log, traits):
    compiled = program(a={"event": "View", "count": {"op": "<", "value": 3}}, b={"event": "Buy"})
    record = Record("acme|a|1", "acme", T + 20)
    for happening in [*log, Happening("Identified", T, "i", type="identify", user_id="ü|1", traits=traits)]:
        apply_event(record, happening, compiled)
    evaluate(record, compiled, T + 20, "event")
    data = record.encode()
    again = Record.decode(data)
    assert again.encode() == data
    for name in Record.__slots__:
        if name != "dirty":
            assert getattr(again, name) == getattr(record, name)
    assert (record.dirty, again.dirty) == (True, False)
    model = Customer.model_validate_json(data)
    assert Record.decode(model.to_json()).encode() == data
    assert model.traits == traits
    assert model.segments.keys() == record.segments.keys()
    assert model.leaves == record.leaves


def test_a_customer_written_before_traits_had_times_is_read():
    data = b'{"id":"acme|a|1","partner":"acme","identifiers":["acme|a|1"],"first_seen":1,"last_seen":2}'
    record = Record.decode(data)
    assert (record.trait_times, record.deadline, record.identified) == ({}, None, False)
    Customer.model_validate_json(record.encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b'{"redirect":"acme|u|1"}', b"\xff\x00"])
def test_what_is_no_customer_is_refused(data):
    with pytest.raises(ValueError, match=r".+"):
        Record.decode(data)


def test_a_record_is_not_written_before_it_is_evaluated():
    record = Record("acme|a|1", "acme", T)
    with pytest.raises(ValueError, match="evaluate before encode"):
        record.encode()
    compiled = program(s={"event": "View"})
    evaluate(record, compiled, T, "event")
    apply_event(record, Happening(), compiled)
    evaluate(record, compiled, T, "event")
    record = Record.decode(record.encode())
    apply_event(record, Happening(id="m2", time=T + 1), compiled)
    with pytest.raises(ValueError, match="evaluate before encode"):
        record.encode()


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        (["acme|a|1"], False),
        (["acme|a|u|1"], False),
        (["acme|a|1", "acme|u|1"], True),
        (["acme|e|a@b.example"], True),
        (["acme|p|+46"], True),
    ],
)
def test_identified_is_a_user_id_an_e_mail_or_a_phone(identifiers, expected):
    assert is_identified(identifiers) is expected
