"""Twilio's messages: what customers write (SMS, WhatsApp), and what became of what was sent to them.

Calls are the call centre's (`call_center`). Source: Twilio's documentation of its request to the message webhook and
of status callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.bridges.base import Answer, BridgeRequest
from pipeline.bridges.provider import OURS, Provider, WebhookSettings, decode_json, named
from pipeline.bridges.twilio_signature import check_twilio, form_fields
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["TwilioBridge"]


class TwilioSettings(WebhookSettings):
    """The webhook's mapping, and the address that Twilio signs."""

    url: str | None = Field(
        None,
        max_length=2000,
        description="the address as it is set in Twilio, where a proxy hides it from the gateway",
    )

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                parts = urlsplit(url)
                known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                known = False
            if not known:
                raise ValueError("a web address, with https:// before it")
        return url


def _event(name: str, when: dict[str, Any], phone: str) -> dict[str, Any]:
    return {
        "when": {phone: True, **when},
        "event": name,
        "traits": {"phone": phone},
        "properties": {
            "message_id": "$.MessageSid",
            "channel": "$.headrace.channel",
            "from": "$.headrace.from",
            "to": "$.headrace.to",
            "text": "$.Body",
            "status": "$.MessageStatus",
            "error": "$.ErrorCode",
        },
    }


class TwilioBridge(Provider):
    """Signed with the account's auth token, over the address and the form's fields. Belongs to a phone number."""

    name = "webhook-twilio"
    title = "Twilio: messages in, and the fate of messages out"
    channel = "Messenger"
    Settings = TwilioSettings
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [
                _event("SMS {$.MessageStatus|title}", {"$.MessageSid": True, "$.MessageStatus": True}, "$.headrace.to"),
                _event("Message Sent", {"$.MessageSid": True}, "$.headrace.from"),
            ],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """X-Twilio-Signature; there is no time in it, so a repeat is told by its id alone."""
        check_twilio(request, secrets, _address(request, settings))

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """The form's fields, and under ``headrace``: ``channel`` (sms, whatsapp, …), ``from`` and ``to`` without it."""
        if "json" in request.headers.get("content-type", ""):
            found = decode_json(request.body)
            return found if isinstance(found, list) else {**found, OURS: {}}
        fields = {name: values[0] for name, values in form_fields(request.body).items()}
        sender, recipient = fields.get("From", ""), fields.get("To", "")
        channel = sender.partition(":")[0] if ":" in sender else "sms"
        ours = {"channel": channel, "from": _plain(sender), "to": _plain(recipient)}
        return {**fields, OURS: {name: value for name, value in ours.items() if value}}

    def answer(self, document: Any) -> Answer | None:
        """Twilio wants TwiML: nothing to do."""
        return Answer(b'<?xml version="1.0" encoding="UTF-8"?><Response/>', "text/xml")

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The message's id, and its status where one is told: a message has several."""
        if not isinstance(document, dict):
            return named(None, "`MessageSid`", "$.MessageSid")
        name = named(document.get("MessageSid") or document.get("SmsSid"), "`MessageSid`", "$.MessageSid")
        status = document.get("MessageStatus")
        return f"{name}:{named(status, '`MessageStatus`', '$.MessageStatus')}" if status else name


def _address(request: BridgeRequest, settings: TwilioSettings) -> str | None:
    """The address that was set in Twilio, with the query that this request has: it may carry the body's hash."""
    if settings.url is None:
        return None
    query = request.url.partition("?")[2]
    return settings.url if "?" in settings.url or not query else f"{settings.url}?{query}"


def _plain(number: str) -> str:
    """``whatsapp:+491…`` is a phone number too."""
    return number.rpartition(":")[2].strip()
