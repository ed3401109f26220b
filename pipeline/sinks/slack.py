"""Slack: a message to a channel by an incoming webhook. No dedup key: a repeat is a second message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import HttpUrl, TypeAdapter, ValidationError

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, SetupError, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Template, fill, needed, post_json

__all__ = ["SlackConfig", "SlackSink"]

_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)
#: Of a message's text; Slack cuts longer ones.
_MAX_TEXT = 40_000
#: What Slack says of the set-up, whatever the status.
_SETUP = {
    b"invalid_token",
    b"no_service",
    b"no_service_id",
    b"no_team",
    b"team_disabled",
    b"channel_not_found",
    b"channel_is_archived",
    b"action_prohibited",
    b"posting_to_general_channel_denied",
    b"user_not_found",
}


class SlackConfig(SinkConfig):
    """``text``: of the message, with Slack's own marks in it; what comes from events is escaped."""

    text: Template = "*{$.name}*: {$.customer.email}"


class SlackSink(Sink[SlackConfig]):
    """Secret: the webhook's address, which is all that Slack asks for."""

    kind = "slack"
    Config = SlackConfig
    rate = 1.0

    def request(self, dispatch: Dispatch, config: SlackConfig, secret: str | None, now: Millis) -> Request:
        """``{"text"}``."""
        url = needed(secret, "the address of an incoming webhook, https://hooks.slack.com/services/…")
        try:
            _URL.validate_python(url)
        except ValidationError:
            raise SetupError("the secret of a Slack integration is the address of an incoming webhook") from None
        text = ("[Test] " if dispatch.test else "") + fill(config.text, _escaped(dispatch))
        if not text.strip():
            raise ValueError("the template makes no text of it")
        return replace(post_json(url, {"text": text[:_MAX_TEXT]}), secret_path=True)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; what Slack says of the webhook is about the set-up."""
        said = body.strip()[:200]
        if said in _SETUP:
            return Classified("setup", f"Slack says {said.decode()}")
        found = classify_status(status, headers)
        return found if found.outcome == "ok" or not said else found._replace(detail=f"Slack says {said!r}")


def _escaped(dispatch: Dispatch) -> Dispatch:
    return dispatch.model_copy(
        update={
            "event": _escape(dispatch.event),
            "customer": _escape(dispatch.customer),
            "name": _escape(dispatch.name),
        }
    )


def _escape(value: object) -> object:
    """As Slack asks: ``&``, ``<`` and ``>``, so that nobody's text calls people or makes links."""
    if isinstance(value, str):
        return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    return [_escape(inner) for inner in value] if isinstance(value, list) else value
