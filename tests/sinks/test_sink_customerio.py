"""Customer.io: against its own client, and what its answers mean entry by entry."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from customerio import CustomerIO
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from tool_world import NOW, asked, dispatch, vendor

from pipeline.sinks.customerio import CustomerioSink, ulid

SINK = CustomerioSink()
SETTINGS = {"site": "site1"}
KEY = "cio-key"


class _InTheClear(HTTPAdapter):
    """Customer.io's client speaks https alone; the receiver here does not."""

    def send(self, request: PreparedRequest, **options: Any) -> Response:  # type: ignore[override]
        request.url = str(request.url).replace("https://", "http://", 1)
        return super().send(request, **options)


def test_a_request_is_what_its_own_client_sends() -> None:
    with vendor(200, b"{}") as (address, calls):
        ours = asked("customerio", SETTINGS | {"address": address}, KEY)
        port = int(address.rpartition(":")[2])
        with CustomerIO("site1", KEY, host="127.0.0.1", port=port, retries=0) as client:
            client.http.mount("https://", _InTheClear())
            client.batch(orjson.loads(ours.body)["batch"])
    [theirs] = calls
    assert (theirs.method, address + theirs.path) == (ours.method, ours.url)
    assert theirs.headers["authorization"] == ours.headers["authorization"]
    assert orjson.loads(theirs.body) == orjson.loads(ours.body)


@pytest.mark.parametrize("status", [200, 207])
def test_an_entry_is_refused_alone_whichever_status_says_so(status: int) -> None:
    """As Customer.io's own integration at Segment reads it: `errors[].batch_index` with any 2xx."""
    answer = {"errors": [{"batch_index": 1, "reason": "invalid", "field": "name", "message": "too long"}]}
    found = SINK.classify_each(status, {}, orjson.dumps(answer), [b"{}"] * 3)
    assert isinstance(found, list)
    assert [each.outcome for each in found] == ["ok", "invalid", "ok"]
    assert found[1].detail.endswith("name invalid too long")


@pytest.mark.parametrize(
    "error", [{"reason": "invalid"}, {"batch_index": 3}, {"batch_index": -1}, {"batch_index": True}, 7, None]
)
def test_a_refusal_that_names_no_entry_has_each_sent_alone(error: Any) -> None:
    """`invalid` for all is what the engine answers with a request for each; taken ones are known by their id."""
    found = SINK.classify_each(207, {}, orjson.dumps({"errors": [{"batch_index": 0}, error]}), [b"{}"] * 3)
    assert not isinstance(found, list)
    assert found.outcome == "invalid"


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b'{"errors":5}', b"[" * 9000])
def test_an_answer_that_says_nothing_readable(body: bytes) -> None:
    unclear, taken = (SINK.classify_each(status, {}, body, [b"{}"] * 2) for status in (207, 200))
    assert not isinstance(unclear, list)
    assert not isinstance(taken, list)
    assert (unclear.outcome, taken.outcome) == ("transient", "ok")


def test_a_full_batch_keeps_below_the_limit_of_a_request() -> None:
    config = SINK.config(SETTINGS)
    each = b"x" * (SINK.most_bytes // SINK.most)
    request = SINK.request_of([each] * SINK.most, config, KEY, NOW)
    assert SINK.most_bytes - SINK.most < len(request.body) <= 500_000  # type: ignore[union-attr]


def test_an_event_is_at_most_32_kb() -> None:
    config = SINK.config(SETTINGS)
    with pytest.raises(ValueError, match="32,000 bytes"):
        SINK.part(dispatch(event={"properties": {"text": "x" * 32_000}}), config, NOW)


@pytest.mark.parametrize("moment", [-1, 1 << 48])
def test_a_moment_that_a_ulid_can_not_hold_is_refused(moment: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        ulid("x", moment)
    assert ulid("x", (1 << 48) - 1).startswith("7ZZZZZZZZZ")


@pytest.mark.parametrize(
    ("customer", "who"),
    [
        ({}, {"id": "7"}),
        ({"user_id": None}, {"email": "Ada@Shop.example"}),
        ({"user_id": None, "email": None}, {"anonymous_id": "a1"}),
    ],
)
def test_whom_it_is_about(customer: dict[str, Any], who: dict[str, str]) -> None:
    [entry] = orjson.loads(asked("customerio", SETTINGS, KEY, dispatch(customer=customer)).body)["batch"]
    assert entry["identifiers"] == who
