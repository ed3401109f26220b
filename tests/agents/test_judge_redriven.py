"""A record that was parked and redriven is, to intake, the record that it was."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.agents.judge import judge
from pipeline.models.control import Source
from pipeline.stream.dead_letters import APPENDED, ORIGINAL, REDRIVEN

NOW = 1_790_000_000_000
TILL = Source(id="till", partner="acme", name="Till", code="till", version=1, created=0, updated=0)
HEADERS = [
    (ORIGINAL, b"raw.acme.till[3]@41"),
    (APPENDED, b"2026-09-21T10:00:00.250+00:00"),
    (REDRIVEN, b"dead.intake[3]@0"),
]


def judged(body: dict[str, Any], headers: list[tuple[str, bytes]]) -> dict[str, Any]:
    value = orjson.dumps({"event": "Order Completed", "userId": "u"} | body)
    event: dict[str, Any] = orjson.loads(judge(TILL, value, headers, appended=NOW, control=7, fallback_id="k:3:99")[1])
    return event


def test_it_keeps_the_id_and_the_time_that_its_first_place_gave_it() -> None:
    event = judged({}, HEADERS)
    assert event["id"] == "k:3:41"
    assert event["received"] == event["time"] == 1_789_984_800_250


def test_what_its_producer_and_the_edge_said_goes_first() -> None:
    assert judged({"messageId": "m"}, HEADERS)["id"] == "m"
    event = judged({}, [*HEADERS, ("ce_id", b"c"), ("ce_time", b"2026-09-21T09:00:00Z")])
    assert (event["id"], event["received"]) == ("c", 1_789_981_200_000)


@pytest.mark.parametrize("place", [b"raw.acme.web[3]@41", b"k:3:41", b"raw.acme.till[3]@-1", b"", b"\xff"])
def test_a_place_that_is_none_or_of_another_topic_says_nothing(place: bytes) -> None:
    event = judged({}, [(ORIGINAL, place), (APPENDED, b"yesterday")])
    assert (event["id"], event["received"]) == ("k:3:99", NOW)


def test_no_header_makes_a_record_younger_than_it_is() -> None:
    assert judged({}, [(APPENDED, b"2027-01-01T00:00:00Z")])["received"] == NOW
