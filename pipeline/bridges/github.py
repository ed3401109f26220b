"""GitHub webhooks: what happens in a repository, as events of the person who did it.

Source: GitHub's documentation of webhook events and of validating webhook deliveries.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import orjson

from pipeline.bridges.base import BridgeRequest, Door, NoSettings, Parsed, RawOut, Refused, decode_object
from pipeline.models.base import Millis
from pipeline.models.control import Source
from pipeline.models.event import strongest
from pipeline.models.raw import MAX_ID

__all__ = ["GitHubBridge", "sign", "verify"]

#: Names that read better than ``GitHub <Event> <Action>``.
_NAMES = {
    ("star", "created"): "Star Created",
    ("star", "deleted"): "Star Deleted",
    ("issues", "opened"): "Issue Opened",
    ("push", None): "Push Received",
}
_EVENT = re.compile(r"[a-z_]{1,60}")
_DELIVERY = re.compile(r"[A-Za-z0-9-]{8,99}")


def sign(secret: bytes, body: bytes) -> str:
    """The header ``X-Hub-Signature-256``: ``sha256=`` and the HMAC-SHA256 of the raw body in hex.

    Raises ValueError for an empty secret: anybody can sign with that.
    """
    if not secret:
        raise ValueError("the webhook's secret is empty")
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def verify(secrets: Sequence[bytes], body: bytes, signature: str) -> bool:
    """Whether one of ``secrets`` made ``signature`` for ``body``, in constant time. Empty ones never did."""
    given = signature.encode()
    matches = [hmac.compare_digest(sign(secret, body).encode(), given) for secret in secrets if secret]
    return any(matches)


class GitHubBridge:
    """Signed with the secret that is set in GitHub and on the source; the delivery's id is the message id."""

    name = "webhook-github"
    title = "GitHub webhooks: stars, issues, pushes"
    door: Door = "webhook"
    channel = "Web"
    Settings = NoSettings

    def parse(self, request: BridgeRequest, source: Source, secrets: Sequence[bytes], now_ms: Millis) -> Parsed:
        """One event; none for a ping. Raises `Refused`: 401 for a wrong signature, 403 without a secret."""
        if not any(secrets):
            raise Refused(403, "no_secret", f"source {source.id} has no secret; set the one that GitHub signs with")
        signature = request.headers.get("x-hub-signature-256", "")
        if not verify(secrets, request.body, signature):
            raise Refused(401, "bad_signature", "X-Hub-Signature-256 is missing or not made with the source's secret")
        event = request.headers.get("x-github-event", "")
        delivery = request.headers.get("x-github-delivery", "")
        if not _EVENT.fullmatch(event):
            raise Refused(400, "shape", "X-GitHub-Event is missing or no name of an event")
        if not _DELIVERY.fullmatch(delivery):
            raise Refused(400, "shape", "X-GitHub-Delivery is missing or no id of a delivery")
        if event == "ping":
            return Parsed([])
        return Parsed([_raw(event, delivery, _payload(request.body), source)])


def _payload(body: bytes) -> dict[str, Any]:
    """GitHub sends JSON, or the same as the form field ``payload``, as the webhook is set up."""
    if body.startswith(b"payload="):
        try:
            fields = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=10, errors="strict")
        except ValueError:
            raise Refused(400, "not_json", "the form is not properly encoded") from None
        if "payload" not in fields:
            raise Refused(400, "empty", "the form's field `payload` is empty")
        body = fields["payload"][0].encode()
    return decode_object(body)


def _raw(event: str, delivery: str, payload: Mapping[str, Any], source: Source) -> RawOut:
    login = _text(payload, "sender", "login")
    if login is None:
        raise Refused(400, "no_identity", "the delivery has no sender", "$.sender.login")
    action = _text(payload, "action")
    name = _NAMES.get((event, action)) or " ".join(["GitHub", *_words(event), *_words(action or "")])
    user = f"github:{login}"
    properties = {
        "event": event,
        "action": action,
        "repository": _text(payload, "repository", "full_name"),
        "organization": _text(payload, "organization", "login"),
        "ref": _text(payload, "ref"),
        "number": _number(payload, event),
        "commits": len(payload["commits"]) if isinstance(payload.get("commits"), list) else None,
    }
    value = orjson.dumps(
        {
            "type": "track",
            "event": name[:200],
            "messageId": delivery,
            "userId": user,
            "properties": {key: value for key, value in properties.items() if value is not None},
        }
    )
    key = strongest(source.partner, user, None)
    assert key is not None
    return RawOut(key.encode(), value, delivery)


def _words(name: str) -> list[str]:
    return [word.capitalize() for word in name.split("_") if word]


def _text(payload: Mapping[str, Any], *path: str) -> str | None:
    """The text at ``path``, or None where there is none or a part of the way is no object."""
    here: Any = payload
    for part in path:
        here = here.get(part) if isinstance(here, dict) else None
    return here[: MAX_ID - len("github:")] or None if isinstance(here, str) else None


def _number(payload: Mapping[str, Any], event: str) -> int | None:
    """The number of the issue or pull request it is about."""
    subject = payload.get("pull_request") if event.startswith("pull_request") else payload.get("issue")
    number = subject.get("number") if isinstance(subject, dict) else None
    return number if isinstance(number, int) else None
