"""Twilio: an SMS or a WhatsApp message (Programmable Messaging, API 2010-04-01).

No dedup key: where an answer does not come, `when_unsure` says whether a second message is the lesser evil.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlencode

import orjson
from pydantic import Field, HttpUrl, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, basic, e164, fill, get, needed, post_json, url_of

__all__ = ["TwilioConfig", "TwilioSink"]

_MAX_BODY = 1600
#: Twilio's error codes that are not about this one message.
_THROTTLE = {20429, 14107, 63018}
_SETUP = {20003, 20005, 20404, 21212, 21606, 21659, 21701, 21703, 20008, 21660}


class TwilioConfig(SinkConfig):
    """``account``: its SID. ``from``: a number, a sender id or (``MG…``) a messaging service.

    ``key``: SID of the API key that the secret is of; left out, the secret is the account's auth token.
    """

    address: Address = HttpUrl("https://api.twilio.com")
    account: str = Field(pattern=r"^AC[0-9a-fA-F]{32}$")
    key: str | None = Field(None, pattern=r"^SK[0-9a-fA-F]{32}$")
    from_: str = Field(alias="from", min_length=1, max_length=60)
    channel: Literal["sms", "whatsapp"] = "sms"
    text: Template | None = None
    content: str | None = Field(None, pattern=r"^HX[0-9a-fA-F]{32}$", description="SID of a content template")
    variables: dict[str, Template] = Field(default_factory=dict, description="of the content template")
    selector: Literal["email", "phone"] = "phone"

    @model_validator(mode="after")
    def _something(self) -> TwilioConfig:
        if (self.text is None) == (self.content is None):
            raise ValueError("say what to send: `text`, or `content` with its `variables`")
        return self


class TwilioSink(Sink[TwilioConfig]):
    """Secret: the account's auth token, or that of the API key ``key``."""

    kind = "twilio"
    Config = TwilioConfig

    def request(self, dispatch: Dispatch, config: TwilioConfig, secret: str | None, now: Millis) -> Request:
        """A form to ``Messages.json``. ValueError for a customer without a phone number, and for an empty text."""
        told = self.told(dispatch, config)
        phone = e164(told.phone)
        if phone is None:
            raise ValueError("the customer has no phone number with its country code")
        prefix = "whatsapp:" if config.channel == "whatsapp" else ""
        form = {"To": prefix + phone}
        if config.from_.startswith("MG"):
            form["MessagingServiceSid"] = config.from_
        else:
            form["From"] = prefix + config.from_
        if config.text is not None:
            text = fill(config.text, dispatch)
            if not 0 < len(text) <= _MAX_BODY:
                raise ValueError(f"a message has 1 to {_MAX_BODY:,} characters, this one {len(text):,}")
            form["Body"] = text
        else:
            form["ContentSid"] = config.content or ""
            filled = {name: fill(template, dispatch) for name, template in config.variables.items()}
            form["ContentVariables"] = orjson.dumps(filled).decode()
        url = url_of(config.address, f"/2010-04-01/Accounts/{config.account}/Messages.json")
        body = urlencode(form).encode()
        return post_json(url, body, _headers(config, secret), kind="application/x-www-form-urlencoded")

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By Twilio's own code where the answer has one: most 400s are about one number, some about the account."""
        found = classify_status(status, headers)
        if found.outcome == "ok":
            return found
        try:
            said = orjson.loads(body)
            code, message = int(said["code"]), str(said["message"])[:300]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return found
        detail = f"Twilio says {code}: {message}"
        if code in _THROTTLE:
            return Classified("throttle", detail, found.retry_after)
        return found._replace(outcome="setup" if code in _SETUP else found.outcome, detail=detail)

    def probe(self, config: TwilioConfig, secret: str | None, now: Millis) -> Request:
        """The account, as it sees itself."""
        return get(url_of(config.address, f"/2010-04-01/Accounts/{config.account}.json"), _headers(config, secret))


def _headers(config: TwilioConfig, secret: str | None) -> dict[str, str]:
    token = needed(secret, "the auth token of the account, or of its API key")
    return {"authorization": basic(config.key or config.account, token)}
