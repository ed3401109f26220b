"""Slack: a message to a channel by an incoming webhook. No dedup key: a repeat is a second message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter, ValidationError

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, SetupError, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Template, fill, needed, post_json

__all__ = ["SlackConfig", "SlackSink"]

_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)
_TEMPLATE: TypeAdapter[str] = TypeAdapter(Template)
#: Of a message's text; Slack cuts longer ones.
_MAX_TEXT = 40_000
#: Of blocks in blocks: Slack's own go less deep.
_MAX_DEPTH = 20
#: What Slack says of the set-up, whatever the status.
_SETUP = {
    b"invalid_token",
    b"no_active_hooks",
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
_TEST_BLOCK = {"type": "context", "elements": [{"type": "plain_text", "text": "Test"}]}


def _walk(value: Any, of_text: Callable[[str], Any], depth: int = 0) -> Any:
    """``value`` with every text in it, but no key, changed. Raises ValueError where it goes too deep."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, dict):
        return {key: _walk(inner, of_text, depth + 1) for key, inner in value.items()}
    return [_walk(inner, of_text, depth + 1) for inner in value] if isinstance(value, list) else value


def _readable(block: dict[str, Any]) -> dict[str, Any]:
    _walk(block, _TEMPLATE.validate_python)
    return block


class SlackConfig(SinkConfig):
    """``text``: of the message, with Slack's own marks in it; what comes from events is escaped.

    ``blocks``: Slack's layout blocks, every text in them a template; ``text`` is then what notifications show.
    """

    text: Template = "*{$.name}*: {$.customer.email}"
    # Slack takes 50, one of which says that it is a test.
    blocks: list[Annotated[dict[str, Any], AfterValidator(_readable)]] = Field(default_factory=list, max_length=49)


class SlackSink(Sink[SlackConfig]):
    """Secret: the webhook's address, which is all that Slack asks for."""

    kind = "slack"
    Config = SlackConfig
    rate = 1.0

    def request(self, dispatch: Dispatch, config: SlackConfig, secret: str | None, now: Millis) -> Request:
        """``{"text", "blocks"?}``. ValueError for an empty text."""
        url = needed(secret, "the address of an incoming webhook, https://hooks.slack.com/services/…")
        try:
            _URL.validate_python(url)
        except ValidationError:
            raise SetupError("the secret of a Slack integration is the address of an incoming webhook") from None
        escaped = _escaped(dispatch)
        text = ("[Test] " if dispatch.test else "") + (filled := fill(config.text, escaped))
        if not filled.strip():
            raise ValueError("the template makes no text of it")
        body: dict[str, Any] = {"text": text[:_MAX_TEXT]}
        if config.blocks:
            blocks = _walk(config.blocks, lambda template: fill(template, escaped))
            body["blocks"] = [_TEST_BLOCK, *blocks] if dispatch.test else blocks
        return replace(post_json(url, body), secret_path=True)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; what Slack says of the webhook is about the set-up, and only ``ok`` is that it took it."""
        said = body.strip()[:200]
        if said in _SETUP:
            return Classified("setup", f"Slack says {said.decode()}")
        found = classify_status(status, headers)
        if found.outcome != "ok":
            return found._replace(detail=f"Slack says {said.decode(errors='replace')}") if said else found
        if said != b"ok":
            return Classified("invalid", f"{status}, but not the `ok` of Slack; it is not sent again by itself")
        return found


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
