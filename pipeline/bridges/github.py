"""GitHub webhooks: what happens in a repository, as events of the person who did it.

Source: GitHub's documentation of webhook events and of validating webhook deliveries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.bridges.base import BridgeRequest, Parsed, Refused, decode_object
from pipeline.bridges.provider import Provider, named
from pipeline.bridges.signatures import any_signed, signature
from pipeline.bridges.twilio_signature import form_fields
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["GitHubBridge", "sign"]

_EVENT = re.compile(r"[a-z_]{1,60}")
_PROPERTIES = {
    "event": "$header.x-github-event",
    "action": "$.action",
    "repository": "$.repository.full_name",
    "organization": "$.organization.login",
}


def sign(secret: bytes, body: bytes) -> str:
    """The header ``X-Hub-Signature-256``: ``sha256=`` and the HMAC-SHA256 of the raw body in hex.

    Raises ValueError for an empty secret: anybody can sign with that.
    """
    return "sha256=" + signature(secret, body)


def _event(name: str, when: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {
        "when": {"$.sender.login": True, **when},
        "event": name,
        "userId": "github:{$.sender.login}",
        "properties": {name: path for name, path in (_PROPERTIES | properties).items() if path is not None},
    }


def _named(event: str, action: str | None = None) -> dict[str, Any]:
    return {"$header.x-github-event": event} | ({"$.action": action} if action else {})


_ISSUE = {"number": "$.issue.number"}
_OTHER = _ISSUE | {"ref": "$.ref"}
_COMMITS = {"path": "$.commits", "as": "count"}
_PULL = {"number": "$.pull_request.number"}
_ANY, _ACTION = "GitHub {$header.x-github-event|title}", " {$.action|title}"


class GitHubBridge(Provider):
    """Signed with the secret that is set in GitHub and on the source; the delivery's id is the message id."""

    name = "webhook-github"
    title = "GitHub webhooks: stars, issues, pushes"
    channel = "Web"
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [
                _event("Star Created", _named("star", "created")),
                _event("Star Deleted", _named("star", "deleted")),
                _event("Issue Opened", _named("issues", "opened"), **_ISSUE),
                _event(
                    "Push Received",
                    _named("push"),
                    action=None,
                    ref="$.ref",
                    commits=_COMMITS,
                ),
                _event(_ANY + _ACTION, {"$.action": True, "$.pull_request": True}, **_PULL),
                _event(_ANY + _ACTION, {"$.action": True}, **_OTHER),
                _event(_ANY, {}, **_OTHER),
            ],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """X-Hub-Signature-256, over the raw body."""
        given = request.headers.get("x-hub-signature-256", "")
        if not any_signed(secrets, [given], lambda secret: [sign(secret, request.body)]):
            raise Refused(401, "bad_signature", "X-Hub-Signature-256 is missing or not made with the source's secret")
        if not _EVENT.fullmatch(request.headers.get("x-github-event", "")):
            raise Refused(400, "shape", "X-GitHub-Event is missing or no name of an event")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """GitHub sends JSON, or the same as the form field ``payload``, as the webhook is set up."""
        if not request.body.startswith(b"payload="):
            return decode_object(request.body)
        return decode_object(form_fields(request.body)["payload"][0].encode())

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """A redelivery has the id of the delivery that it repeats."""
        return named(request.headers.get("x-github-delivery"), "X-GitHub-Delivery")

    def handshake(self, request: BridgeRequest, document: Any) -> Parsed | None:
        """A ping says that the webhook was set up."""
        return Parsed([]) if request.headers.get("x-github-event") == "ping" else None
