"""The GitHub bridge: signatures (GitHub's published vector), names, people, deliveries."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.agents.judge import judge
from pipeline.bridges.base import BridgeRequest, Parsed, Refused
from pipeline.bridges.github import GitHubBridge, sign
from pipeline.bridges.registry import bridge
from pipeline.bridges.signatures import any_signed
from pipeline.models.control import Source

# From GitHub's documentation, "Validating webhook deliveries".
SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def verify(secrets: list[bytes], body: bytes, given: str) -> bool:
    return any_signed(secrets, [given], lambda secret: [sign(secret, body)])


SOURCE = Source(
    id="gh", partner="acme", name="GitHub", code="gh", bridge="webhook-github", version=1, created=0, updated=0
)
STAR = {
    "action": "created",
    "starred_at": "2026-01-01T00:00:00Z",
    "repository": {"full_name": "acme/shop"},
    "sender": {"login": "ada"},
}


def parse(
    payload: Any,
    event: str = "star",
    secrets: tuple[bytes, ...] = (SECRET,),
    signed_with: bytes = SECRET,
    **headers: str,
) -> Parsed:
    body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    known = {"x-github-event": event, "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    known |= {"x-hub-signature-256": sign(signed_with, body)}
    known |= {name.replace("_", "-"): value for name, value in headers.items()}
    return GitHubBridge().parse(BridgeRequest("webhook", known, body), SOURCE, secrets, 0)


def refused(*args: Any, **kwargs: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(*args, **kwargs)
    return caught.value


def test_githubs_own_vector() -> None:
    assert sign(SECRET, BODY) == SIGNATURE
    assert verify([SECRET], BODY, SIGNATURE)
    assert verify([b"old", SECRET], BODY, SIGNATURE)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        SIGNATURE[:-1] + "8",
        SIGNATURE.upper(),
        SIGNATURE.removeprefix("sha256="),
        "sha256=",
        "sha1=" + "0" * 40,
        "é",
    ],
)
def test_another_signature_is_refused(signature: str) -> None:
    assert not verify([SECRET], BODY, signature)
    assert refused(STAR, x_hub_signature_256=signature).status == 401


@given(st.binary(max_size=64), st.integers(0, 63), st.integers(1, 255))
def test_one_changed_byte_is_noticed(body: bytes, at: int, by: int) -> None:
    if not body:
        return
    at %= len(body)
    forged = body[:at] + bytes([body[at] ^ by]) + body[at + 1 :]
    assert not verify([SECRET], forged, sign(SECRET, body))


def test_an_empty_secret_never_verifies() -> None:
    with pytest.raises(ValueError, match="empty"):
        sign(b"", BODY)
    # What somebody computes who guesses that no secret is set.
    import hashlib
    import hmac

    guessed = "sha256=" + hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert not verify([b""], BODY, guessed)
    assert not verify([], BODY, guessed)
    for secrets in ((), (b"",)):
        no = refused(STAR, secrets=secrets)
        assert (no.status, no.code) == (403, "no_secret")


@pytest.mark.parametrize(
    ("event", "action", "name"),
    [
        ("star", "created", "Star Created"),
        ("star", "deleted", "Star Deleted"),
        ("issues", "opened", "Issue Opened"),
        ("issues", "closed", "GitHub Issues Closed"),
        ("push", None, "Push Received"),
        ("pull_request", "review_requested", "GitHub Pull Request Review Requested"),
        ("fork", None, "GitHub Fork"),
    ],
)
def test_events_have_names(event: str, action: str | None, name: str) -> None:
    payload = {key: value for key, value in STAR.items() if key != "action"} | ({"action": action} if action else {})
    [out] = parse(payload, event).events
    assert orjson.loads(out.value)["event"] == name


def test_a_star_is_an_event_of_who_gave_it() -> None:
    [out] = parse(STAR).events
    assert out.key == b"acme|u|github:ada"
    assert out.message_id == "72d3162e-cc78-11e3-81ab-4c9367dc0958"
    assert orjson.loads(out.value) == {
        "type": "track",
        "event": "Star Created",
        "messageId": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "userId": "github:ada",
        "properties": {"event": "star", "action": "created", "repository": "acme/shop"},
    }


def test_a_push_and_an_issue_bring_their_figures() -> None:
    push = {"ref": "refs/heads/main", "commits": [{}, {}], "repository": {"full_name": "a/b"}, "sender": {"login": "x"}}
    [out] = parse(push, "push").events
    assert orjson.loads(out.value)["properties"] == {
        "event": "push",
        "repository": "a/b",
        "ref": "refs/heads/main",
        "commits": 2,
    }
    [out] = parse(STAR | {"action": "opened", "issue": {"number": 7}}, "issues").events
    assert orjson.loads(out.value)["properties"]["number"] == 7


def test_a_payload_may_come_as_a_form() -> None:
    [out] = parse(urlencode({"payload": orjson.dumps(STAR)}).encode()).events
    assert orjson.loads(out.value)["event"] == "Star Created"
    assert refused(b"payload=%ff").status == 400


def test_a_ping_is_answered_and_not_counted() -> None:
    assert parse({"zen": "Design for failure."}, "ping") == Parsed([])


def test_headers_are_checked() -> None:
    assert refused(STAR, x_github_delivery="").status == 400
    assert refused(STAR, x_github_delivery="é" * 20).status == 400
    assert refused(STAR, event="../x").status == 400


NONSENSE = st.recursive(
    st.none() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["action", "sender", "login", "repository", "full_name", "issue", "number", "commits"]),
            inner,
        )
    ),
)


@example(b"payload=", "star")
@given(st.binary(max_size=200) | NONSENSE.map(orjson.dumps), st.sampled_from(["star", "issues", "pull_request"]))
def test_signed_nonsense_is_taken_or_refused_and_raises_nothing_else(body: bytes, event: str) -> None:
    try:
        parsed = parse(body, event)
    except Refused:
        return
    for out in parsed.events:
        judge(SOURCE, out.value, [], appended=1_790_000_000_000, control=1, fallback_id="none")


def test_the_registry_knows_it() -> None:
    assert bridge("webhook-github", "webhook") is not None
    assert bridge("webhook-github", "tracking") is None
    assert bridge("kafka", "topic") is None
