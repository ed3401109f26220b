"""Slack: its own library signs; the challenge; messages, reactions and commands of people, not of bots."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import Clock, SignatureVerifier
from webhook_world import deliver, made, nonsense_is_taken_or_refused, refusal, source_of

SECRET = b"8f742231b10e8888abcd99yyyzzz85a5"
SOURCE = source_of("webhook-slack")


class At(Clock):  # type: ignore[misc]
    def now(self) -> float:
        return 1_790_000_000.0


def sign(body: bytes, at: int = 1_790_000_000, secret: bytes = SECRET) -> dict[str, str]:
    made_by = SignatureVerifier(secret.decode(), At()).generate_signature(timestamp=str(at), body=body)
    return {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": str(made_by)}


def event(inner: dict[str, Any], **outer: Any) -> list[dict[str, Any]]:
    whole = {"type": "event_callback", "event_id": "Ev1", "team_id": "T1", "event_time": 1_789_999_000, "event": inner}
    body = orjson.dumps(whole | outer)
    return made(deliver(SOURCE, body, sign(body), SECRET), SOURCE)


def form(fields: dict[str, str]) -> list[dict[str, Any]]:
    body = urlencode(fields).encode()
    parsed = deliver(SOURCE, body, sign(body), SECRET)
    assert parsed.answer is not None
    assert parsed.answer.body == b""
    return made(parsed, SOURCE)


def test_slacks_library_and_ours_agree() -> None:
    body = b'{"type":"app_rate_limited","event_id":"Ev1"}'
    assert SignatureVerifier(SECRET.decode(), At()).is_valid_request(body, sign(body))
    assert deliver(SOURCE, body, sign(body), SECRET).events == []
    assert refusal(SOURCE, body + b" ", sign(body), SECRET) == (401, "bad_signature")
    assert refusal(SOURCE, body, sign(body, secret=b"x"), SECRET) == (401, "bad_signature")
    assert refusal(SOURCE, body, sign(body, 1_789_999_699), SECRET) == (401, "old_signature")


def test_the_challenge_is_echoed() -> None:
    body = orjson.dumps({"type": "url_verification", "token": "t", "challenge": "3eZbrw1aB"})
    parsed = deliver(SOURCE, body, sign(body), SECRET)
    assert parsed.events == []
    assert parsed.answer is not None
    assert parsed.answer.body == b"3eZbrw1aB"
    assert refusal(SOURCE, body, sign(b"{}"), SECRET) == (401, "bad_signature")


def test_a_message_of_a_person() -> None:
    [message] = event({"type": "message", "user": "U1", "channel": "C1", "channel_type": "channel", "text": "hi"})
    assert message == {
        "type": "track",
        "event": "Message Sent",
        "messageId": "Ev1",
        "userId": "slack:U1",
        "timestamp": "2026-09-21T13:56:40.000Z",
        "properties": {"team": "T1", "channel": "C1", "channel_type": "channel", "text": "hi"},
    }


@pytest.mark.parametrize(
    ("inner", "name"),
    [
        ({"type": "message", "subtype": "file_share", "user": "U1"}, "Message Sent"),
        ({"type": "message", "subtype": "channel_join", "user": "U1"}, "Slack Channel Join"),
        ({"type": "reaction_added", "user": "U1", "reaction": "tada", "item": {"channel": "C1"}}, "Reaction Added"),
        ({"type": "app_mention", "user": "U1"}, "Slack App Mention"),
        ({"type": "team_join", "user": {"id": "U2"}}, "Slack Team Join"),
    ],
)
def test_events_have_names(inner: dict[str, Any], name: str) -> None:
    assert [each["event"] for each in event(inner)] == [name]


@pytest.mark.parametrize(
    "inner", [{"type": "message", "bot_id": "B1", "user": "U1"}, {"type": "message", "subtype": "message_changed"}]
)
def test_what_bots_do_is_nobodys(inner: dict[str, Any]) -> None:
    assert event(inner) == []


def test_commands_and_buttons_come_as_forms() -> None:
    [command] = form({"command": "/order", "text": "tea", "user_id": "U1", "team_id": "T1", "trigger_id": "1.2.a"})
    assert (command["event"], command["messageId"], command["userId"]) == ("Command Used", "1.2.a", "slack:U1")
    assert command["properties"] == {"command": "/order", "text": "tea", "team": "T1"}
    payload = {"type": "block_actions", "trigger_id": "1.3.b", "user": {"id": "U1"}, "actions": [{"action_id": "ok"}]}
    [button] = form({"payload": orjson.dumps(payload).decode()})
    assert (button["event"], button["properties"]) == ("Slack Block Actions", {"action": "ok"})


def test_a_retry_has_the_id_of_what_it_repeats() -> None:
    body = orjson.dumps({"event_id": "Ev9", "event": {"type": "message", "user": "U1"}})
    again = sign(body) | {"X-Slack-Retry-Num": "1"}
    assert [deliver(SOURCE, body, each, SECRET).events[0].message_id for each in (sign(body), again)] == ["Ev9", "Ev9"]


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "event", "event_id", "user", "id", "payload", "trigger_id", "event_time", "text"]),
            inner | st.sampled_from(["message", "Ev1"]),
        )
    ),
)


@given(NONSENSE.map(orjson.dumps) | st.text(max_size=50).map(str.encode))
def test_signed_nonsense_raises_nothing_but_refusals(body: bytes) -> None:
    nonsense_is_taken_or_refused(SOURCE, body, sign(body), SECRET)
