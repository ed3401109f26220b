"""Typeform: answers by their ref, and whose they are."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_world import deliver, made, nonsense_is_taken_or_refused, refusal, source_of

from pipeline.bridges.signatures import signature

SECRET = b"hush"
SOURCE = source_of("webhook-typeform")


def sign(body: bytes, secret: bytes = SECRET) -> dict[str, str]:
    return {"Typeform-Signature": "sha256=" + signature(secret, body, "sha256", "base64")}


def filled(answers: list[dict[str, Any]], kind: str = "form_response", **response: Any) -> list[dict[str, Any]]:
    whole = {
        "event_id": "LtWXD3crgy",
        "event_type": kind,
        "form_response": {
            "form_id": "lT4Z3j",
            "token": "a3a12ec67a1365927098a606107fac15",
            "submitted_at": "2018-01-18T18:17:02Z",
            "definition": {"title": "Webhooks example"},
            "answers": answers,
            **response,
        },
    }
    body = orjson.dumps(whole)
    return made(deliver(SOURCE, body, sign(body), b"old", SECRET), SOURCE)


def answer(kind: str, value: Any, ref: str) -> dict[str, Any]:
    return {"type": kind, kind: value, "field": {"id": ref.upper(), "ref": ref, "type": "x"}}


ANSWERS = [
    answer("text", "It's cold", "why"),
    answer("email", "laura@example.com", "mail"),
    answer("choice", {"label": "London"}, "city"),
    answer("choices", {"labels": ["Sydney", "Rome"]}, "cities"),
    answer("number", 5, "stars"),
    answer("boolean", False, "again"),
]


def test_the_published_vector() -> None:
    assert sign(b'{"a":1}') == {"Typeform-Signature": "sha256=3+Yq/TpwjqJ7IXuMq8EfED7b+y0XbokqOKLUdagDxMI="}
    assert refusal(SOURCE, b'{"a":2}', sign(b'{"a":1}'), SECRET) == (401, "bad_signature")


def test_a_form_filled_in() -> None:
    [event] = filled(ANSWERS, calculated={"score": 9})
    assert event == {
        "type": "track",
        "event": "Form Filled",
        "messageId": "LtWXD3crgy",
        "traits": {"email": "laura@example.com"},
        "timestamp": "2018-01-18T18:17:02Z",
        "properties": {
            "form_id": "lT4Z3j",
            "form": "Webhooks example",
            "response_id": "a3a12ec67a1365927098a606107fac15",
            "score": 9,
            "answers": {
                "why": "It's cold",
                "mail": "laura@example.com",
                "city": "London",
                "cities": ["Sydney", "Rome"],
                "stars": 5,
                "again": False,
            },
        },
    }


@pytest.mark.parametrize(
    ("answers", "hidden", "whose"),
    [
        (ANSWERS, {"user_id": "u-1"}, {"userId": "u-1", "traits": {"email": "laura@example.com"}}),
        ([answer("phone_number", "+4930123", "tel")], None, {"traits": {"phone": "+4930123"}}),
        ([], {}, {"anonymousId": "typeform:a3a12ec67a1365927098a606107fac15"}),
    ],
)
def test_whose_it_is(answers: list[dict[str, Any]], hidden: Any, whose: dict[str, Any]) -> None:
    [event] = filled(answers, hidden=hidden)
    assert {name: event[name] for name in ("userId", "anonymousId", "traits") if name in event} == whose


def test_one_begun_has_another_name_and_what_is_new_is_acknowledged() -> None:
    assert filled(ANSWERS, "form_response_partial")[0]["event"] == "Form Started"
    assert filled(ANSWERS, "form_imagined") == []


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["form_response", "answers", "type", "field", "ref", "email", "hidden", "token"]),
            inner | st.sampled_from(["email", "choice"]),
        )
    ),
)


@given(NONSENSE)
def test_signed_nonsense_raises_nothing_but_refusals(nonsense: Any) -> None:
    for whole in (nonsense, {"event_id": "E", "event_type": "form_response", "form_response": nonsense}):
        body = orjson.dumps(whole)
        nonsense_is_taken_or_refused(SOURCE, body, sign(body), SECRET)
