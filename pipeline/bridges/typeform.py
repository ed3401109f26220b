"""Typeform webhooks: forms that people have filled in.

Source: Typeform's documentation, "Secure your webhooks", and its example of a payload.
"""

from __future__ import annotations

from collections.abc import Mapping as Object
from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.bridges.base import BridgeRequest, Refused, decode_object
from pipeline.bridges.provider import OURS, Provider, named
from pipeline.bridges.signatures import any_signed, signature
from pipeline.models.base import Millis
from pipeline.models.mapping import Mapping

__all__ = ["TypeformBridge"]

_MAX_ANSWERS = 500


def _event(kind: str, name: str) -> dict[str, Any]:
    return {
        "when": {"$.event_type": kind},
        "event": name,
        "userId": "$.headrace.user",
        "anonymousId": "$.headrace.anonymous",
        "traits": "$.headrace.contact",
        "timestamp": "$.form_response.submitted_at",
        "properties": {
            "form_id": "$.form_response.form_id",
            "form": "$.form_response.definition.title",
            "response_id": "$.form_response.token",
            "score": "$.form_response.calculated.score",
            "answers": "$.headrace.answers",
        },
    }


class TypeformBridge(Provider):
    """Signed with the webhook's secret; the event's id is the message id.

    Whose form it is: the hidden field ``user_id``, else the first e-mail and phone among the answers, else a visitor
    of its own.
    """

    name = "webhook-typeform"
    title = "Typeform webhooks: forms filled in"
    channel = "Web"
    mapping: ClassVar[Mapping] = Mapping.model_validate(
        {
            "events": [_event("form_response", "Form Filled"), _event("form_response_partial", "Form Started")],
            "others": "ignore",
        }
    )

    def check(self, request: BridgeRequest, settings: Any, secrets: Sequence[bytes], now_ms: Millis) -> None:
        """Typeform-Signature: ``sha256=`` and the HMAC of the raw body in base64."""
        given = request.headers.get("typeform-signature", "")

        def expect(secret: bytes) -> list[str]:
            return ["sha256=" + signature(secret, request.body, "sha256", "base64")]

        if not any_signed(secrets, [given], expect):
            raise Refused(401, "bad_signature", "Typeform-Signature is missing or not made with the source's secret")

    def document(self, request: BridgeRequest, settings: Any) -> Any:
        """What Typeform sends, and under ``headrace``: ``answers`` by their field's ref, and whose they are."""
        found = decode_object(request.body)
        response = found.get("form_response")
        if not isinstance(response, dict):
            raise Refused(400, "shape", "`form_response` is missing", "$.form_response")
        given = response.get("answers")
        answers: dict[str, Any] = {}
        firsts: dict[str, Any] = {}
        for answer in given[:_MAX_ANSWERS] if isinstance(given, list) else ():
            if not isinstance(answer, dict) or not isinstance(kind := answer.get("type"), str):
                continue
            value = _value(answer, kind)
            firsts.setdefault(kind, value)
            field = answer.get("field")
            ref = (field.get("ref") or field.get("id")) if isinstance(field, dict) else None
            if isinstance(ref, str):
                answers[ref] = value
        return {**found, OURS: {"answers": answers, **_whose(response, firsts)}}

    def message_id(self, request: BridgeRequest, document: Any, settings: Any) -> str:
        """The same in every attempt to deliver."""
        return named(document.get("event_id"), "`event_id`", "$.event_id")


def _value(answer: Object[str, Any], kind: str) -> Any:
    """An answer without its wrapping: the label of a choice, the labels of several."""
    value = answer.get(kind)
    if isinstance(value, dict):
        return value.get("label") or value.get("labels") or value.get("other") or value
    return value


def _whose(response: Object[str, Any], firsts: Object[str, Any]) -> dict[str, Any]:
    hidden = response.get("hidden")
    user = hidden.get("user_id") if isinstance(hidden, dict) else None
    named_contacts = (("email", firsts.get("email")), ("phone", firsts.get("phone_number")))
    contact = {name: value for name, value in named_contacts if isinstance(value, str) and value}
    whose: dict[str, Any] = {"contact": contact}
    if isinstance(user, str) and user:
        whose["user"] = user
    elif not contact and isinstance(response.get("token"), str):
        whose["anonymous"] = f"typeform:{response['token']}"
    return whose
