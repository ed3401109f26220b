"""Slack: messages, reactions, commands of a workspace, by its Events API, slash commands and interactions.

Source: Slack's documentation, "Verifying requests from Slack", "Events API", "Slash commands".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.bridges.base import Answer, BridgeRequest, Parsed, Refused, decode_object
from pipeline.bridges.provider import Provider, named
from pipeline.bridges.signatures import any_signed, check_time, signature
from pipeline.bridges.twilio_signature import form_fields
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["SlackBridge"]

#: An event of a person's: what apps and bots write is nobody's.
_PERSON = {"$.event.user": True, "$.event.bot_id": False}
_EVENT = {"team": "$.team_id", "channel": "$.event.channel"}
_MESSAGE = _EVENT | {"channel_type": "$.event.channel_type", "text": "$.event.text", "thread": "$.event.thread_ts"}


def _event(name: str, when: dict[str, Any], properties: dict[str, Any], user: str = "$.event.user") -> dict[str, Any]:
    return {
        "when": when,
        "event": name,
        "userId": f"slack:{{{user}}}",
        "timestamp": {"path": "$.event_time", "as": "seconds"},
        "properties": properties,
    }


class SlackBridge(Provider):
    """Signed with the app's signing secret; the event's id is the message id, whatever the retry header says."""

    name = "webhook-slack"
    title = "Slack: messages, reactions, slash commands"
    channel = "Messenger"
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [
                _event("Message Sent", {"$.event.type": "message", "$.event.subtype": False, **_PERSON}, _MESSAGE),
                _event(
                    "Message Sent",
                    {
                        "$.event.type": "message",
                        "$.event.subtype": ["file_share", "thread_broadcast", "me_message"],
                        **_PERSON,
                    },
                    _MESSAGE,
                ),
                _event(
                    "Reaction Added",
                    {"$.event.type": "reaction_added", **_PERSON},
                    {"team": "$.team_id", "channel": "$.event.item.channel", "reaction": "$.event.reaction"},
                ),
                _event(
                    "Command Used",
                    {"$.command": True, "$.user_id": True},
                    {"command": "$.command", "text": "$.text", "team": "$.team_id", "channel": "$.channel_id"},
                    "$.user_id",
                ),
                _event(
                    "Slack {$.type|title}",
                    {"$.trigger_id": True, "$.type": True, "$.user.id": True},
                    {"team": "$.team.id", "action": "$.actions[0].action_id", "value": "$.actions[0].value"},
                    "$.user.id",
                ),
                _event("Slack {$.event.type|title}", {"$.event.user.id": True}, _EVENT, "$.event.user.id"),
                _event("Slack {$.event.subtype|title}", {"$.event.subtype": True, **_PERSON}, _EVENT),
                _event("Slack {$.event.type|title}", {"$.event.type": True, **_PERSON}, _EVENT),
            ],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """X-Slack-Signature: ``v0=`` and the HMAC of ``v0:<timestamp>:<body>``."""
        moment = check_time(request.headers.get("x-slack-request-timestamp", ""), "X-Slack-Request-Timestamp", now_ms)
        signed = b"v0:" + moment.encode() + b":" + request.body
        given = request.headers.get("x-slack-signature", "")
        if not any_signed(secrets, [given], lambda secret: ["v0=" + signature(secret, signed)]):
            raise Refused(401, "bad_signature", "X-Slack-Signature is missing or not made with the source's secret")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """JSON from the Events API; a form from slash commands; JSON in a form's ``payload`` from interactions."""
        if request.body.lstrip()[:1] in (b"{", b""):
            return decode_object(request.body)
        fields = {name: values[0] for name, values in form_fields(request.body).items()}
        return decode_object(fields["payload"].encode()) if "payload" in fields else fields

    def handshake(self, request: BridgeRequest, document: Any) -> Parsed | None:
        """Slack asks once whether the address is ours: the challenge, echoed."""
        if document.get("type") != "url_verification":
            return None
        challenge = document.get("challenge")
        if not isinstance(challenge, str):
            raise Refused(400, "shape", "the challenge is missing", "$.challenge")
        return Parsed([], answer=Answer(challenge.encode(), "text/plain; charset=utf-8"))

    def answer(self, document: Any) -> Answer | None:
        """Whoever used a command or a button would be shown a body."""
        return Answer(b"", "text/plain") if "trigger_id" in document else None

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """``event_id``; ``trigger_id`` for commands and interactions."""
        place = "event_id" if "event_id" in document else "trigger_id"
        return named(document.get(place), f"`{place}`", f"$.{place}")
