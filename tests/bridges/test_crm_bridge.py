"""Customers of a CRM: what a row becomes, and why one is refused."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.agents.judge import RejectError, judge
from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.crm import MAX_CUSTOMERS, CrmBridge, Rows, Settings
from pipeline.models.control import Source

NOW = 1_790_000_000_000


def source(**settings):
    return Source(
        id="crm", partner="acme", name="CRM", code="crm", channel="CRM", bridge="crm", settings=settings,
        version=1, created=0, updated=0,
    )  # fmt: skip


def event(row, **settings):
    [out] = Rows(source(**settings)).events(row, "m:1")
    return orjson.loads(out.value)


def refusal(row, **settings):
    with pytest.raises(Refused) as caught:
        Rows(source(**settings)).events(row, "m:1")
    return caught.value


def test_a_row_is_an_identify_event_by_the_names_of_its_columns():
    row = {
        "Customer ID": " 17 ",
        "E-mail": "ann@shop.example",
        "Phone Number": "+46701234567",
        "Name": "Ann",
        "Plan": "pro",
        "City": "",
    }
    assert event(row) == {
        "type": "identify",
        "userId": "17",
        "messageId": "m:1",
        "traits": {"email": "ann@shop.example", "phone": "+46701234567", "name": "Ann", "Plan": "pro"},
    }


def test_json_has_traits_of_its_own_and_an_id_may_be_a_number():
    row = {
        "id": 17,
        "traits": {"plan": "pro", "tags": ["a"], "name": "old"},
        "name": "Ann",
        "timestamp": "2026-01-31T12:00:00Z",
    }
    assert event(row) == {
        "type": "identify",
        "userId": 17,
        "messageId": "m:1",
        "timestamp": "2026-01-31T12:00:00Z",
        "traits": {"plan": "pro", "tags": ["a"], "name": "Ann"},
    }


def test_columns_are_named_by_the_source():
    columns = {"Kundnr": "id", "Epost": "email", "Hemligt": "", "Stad": "city"}
    row = {"Kundnr": "7", "Epost": "a@b.example", "Hemligt": "x", "Stad": "Lund", "mobile": "1", "phone": "2"}
    assert event(row, columns=columns)["traits"] == {
        "email": "a@b.example",
        "city": "Lund",
        "phone": "2",
        "mobile": "1",
    }
    assert event({"id": "1", "phone": "1", "mobile": "2"})["traits"] == {"phone": "1", "mobile": "2"}


def test_a_declared_mapping_may_make_of_a_row_what_it_wants():
    mapping = {
        "events": [
            {
                "type": "identify",
                "userId": "$.nr",
                "traits": {"spent": {"path": "$.spent", "as": "number"}, "email": "$.mail"},
            }
        ]
    }
    assert event({"nr": "7", "spent": "12.5"}, mapping=mapping)["traits"] == {"spent": 12.5}
    no = refusal({"nr": "7", "spent": "much"}, mapping=mapping)
    assert (no.code, no.path) == ("mapping", "$.spent")


@pytest.mark.parametrize(
    ("row", "code", "path"),
    [
        ({"name": "Ann"}, "no_identity", "id"),
        ({"id": "  ", "plan": "pro"}, "no_identity", "id"),
        ({"id": "x" * 513}, "shape", "id"),
        ({"id": {"a": 1}}, "shape", "id"),
        ({"id": "1", "email": 7}, "shape", "email"),
        ({"id": "1", "traits": [1]}, "shape", "traits"),
        ({"id": "1", "bio": "x" * 33_000}, "too_large", None),
        ([1], "not_an_object", None),
        ("x", "not_an_object", None),
        (None, "not_an_object", None),
    ],
)
def test_what_is_refused_is_told_with_its_column(row, code, path):
    no = refusal(row)
    assert (no.code, no.path) == (code, path)


def test_settings_are_columns_or_a_mapping():
    for wrong in (
        {"columns": {"a": "id"}, "mapping": {"events": [{}]}},
        {"mapping": {"events": [{"userId": "$.a["}]}},
        {"colums": {}},
    ):
        with pytest.raises(ValueError, match=r"columns|path|permitted"):
            Settings.model_validate(wrong)
    assert refusal({"id": "1"}, topic="of another bridge").code == "bad_settings"


def request(body, **headers):
    return BridgeRequest("customers", headers, body if isinstance(body, bytes) else orjson.dumps(body))


def test_of_an_array_good_customers_go_in_and_bad_ones_are_named():
    asked = request([{"id": "1"}, {"name": "nobody"}, {"email": "c@d.example"}], **{"idempotency-key": "import-7"})
    parsed = CrmBridge().parse(asked, source(), (), NOW)
    assert [(out.key, out.message_id) for out in parsed.events] == [
        (b"acme|u|1", "import-7:0"),
        (b"acme|e|c@d.example", "import-7:2"),
    ]
    assert [(fault.index, fault.code, fault.path) for fault in parsed.faults] == [(1, "no_identity", "id")]
    one = CrmBridge().parse(request({"id": "1"}), source(), (), NOW)
    other = CrmBridge().parse(request({"id": "1"}), source(), (), NOW)
    assert one.events[0].message_id != other.events[0].message_id


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [(b"", 400, "empty"), (b"{", 400, "not_json"), ([{"id": "1"}] * (MAX_CUSTOMERS + 1), 413, "too_large")],
)
def test_a_body_that_is_none_is_refused_whole(body, status, code):
    with pytest.raises(Refused) as caught:
        CrmBridge().parse(request(body), source(), (), NOW)
    assert (caught.value.status, caught.value.code) == (status, code)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
columns = st.sampled_from(["id", "email", "phone", "name", "traits", "timestamp", "Plan", ""])


@given(st.dictionaries(columns, json_values, max_size=6) | json_values)
def test_whatever_the_row_it_is_refused_or_intake_reads_it(row):
    try:
        [out] = Rows(source()).events(row, "m:1")
    except Refused:
        return
    try:
        judge(source(), out.value, [], appended=NOW, control=0, fallback_id="k")
    except RejectError as no:
        if no.reason != "bad_time":  # a time that is none is intake's to say
            raise
