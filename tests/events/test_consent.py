"""Who refused, and what is left of an event that is nobody's."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.events.consent import anonymous, refused


@pytest.mark.parametrize(
    ("context", "header", "refusal"),
    [
        (None, None, False),
        (None, "1", True),
        (None, "0", False),
        ({"gpc": True}, None, True),
        ({"gpc": "true"}, None, False),
        ({"consent": False}, None, True),
        ({"consent": True}, None, False),
        ({"consent": {"categoryPreferences": {"ads": False, "stats": False}}}, None, True),
        ({"consent": {"categoryPreferences": {"ads": False, "stats": True}}}, None, False),
        ({"consent": {"categoryPreferences": {}}}, None, False),
        ([], None, False),
    ],
)
def test_refusals(context: Any, header: str | None, refusal: bool) -> None:
    assert refused({"context": context}, header) is refusal


def test_of_nobodys_event_no_identifier_is_left() -> None:
    event = {
        "type": "track",
        "event": "Page Viewed",
        "userId": "SECRET",
        "anonymousId": "SECRET",
        "groupId": "SECRET",
        "previousId": "SECRET",
        "traits": {"email": "SECRET"},
        "anything": "SECRET",
        "properties": {"category": "Jacket"},
        "messageId": "m",
        "context": {
            "traits": {"email": "SECRET"},
            "session": {"id": "SECRET"},
            "device": {"id": "SECRET"},
            "page": {"path": "/j", "url": "https://s.example/j?email=SECRET", "title": "J"},
            "locale": "lv",
        },
    }
    left = anonymous(event)
    assert left == {
        "type": "track",
        "event": "Page Viewed",
        "messageId": "m",
        "properties": {"category": "Jacket"},
        "context": {"page": {"path": "/j", "title": "J"}, "locale": "lv"},
    }


@pytest.mark.parametrize("kind", ["identify", "group", "alias"])
def test_what_is_about_a_person_alone_leaves_nothing(kind: str) -> None:
    assert anonymous({"type": kind, "userId": "u", "traits": {"a": 1}}) is None
