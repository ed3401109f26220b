"""Twilio: an SMS or a WhatsApp message (Programmable Messaging, API 2010-04-01).

No dedup key: where an answer does not come, `when_unsure` says whether a second message is the lesser evil.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlencode

import orjson
from pydantic import Field, HttpUrl, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch, Outcome
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig
from pipeline.sinks.classify import MAX_RETRY_AFTER_S, classify_status
from pipeline.sinks.requests import Address, Template, basic, e164, fill, get, needed, parameter, post_json, url_of

__all__ = ["TwilioConfig", "TwilioSink"]

_MAX_BODY = 1600
_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_NUMBER = re.compile(r"\+[1-9]\d{6,14}")
#: A number, a short code, or a name of up to 11 letters, digits and spaces, one of which is a letter.
_SENDER = r"^(?:MG[0-9a-fA-F]{32}|\+[1-9]\d{6,14}|\d{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 +_&-]{1,11})$"
#: Twilio's codes whose status does not say what they mean (its error dictionary).
_THROTTLE = {
    20429,  # too many requests
    14107,  # messages too fast
    21611,  # ten hours of messages wait for this sender
    63017,  # the account's messages are too fast
    63018,  # the channel's limit
}
#: Of a day: asked again as late as may be.
_DAILY = {63038}
_SETUP = {
    10001,  # the account is not active
    20003,  # credentials
    20005,  # the account is not active
    20008,  # test credentials
    20404,  # no such account
    21212,  # From is no number
    21603,  # no From
    21606,  # From is not the account's, or sends no messages
    21655,  # ContentSid is none
    21659,  # From is not Twilio's
    21660,  # From is another account's
    21671,  # no content templates in this region
    21701,  # no such messaging service
    21703,  # the messaging service has no senders
    63007,  # no channel has this From
}
_INVALID = {
    21211,  # To is no number
    21408,  # the account may not send to this country
    21608,  # a trial account, and To is not verified
    21610,  # unsubscribed
    21612,  # no way from From to To
    21614,  # To is no mobile
}
_MEANS: dict[int, Outcome] = {
    **dict.fromkeys(_THROTTLE | _DAILY, "throttle"),
    **dict.fromkeys(_SETUP, "setup"),
    **dict.fromkeys(_INVALID, "invalid"),
}


class TwilioConfig(SinkConfig):
    """``account``: its SID. ``from``: a number, a sender id or (``MG…``) a messaging service.

    ``key``: SID of the API key that the secret is of; left out, the secret is the account's auth token.
    """

    address: Address = HttpUrl("https://api.twilio.com")
    account: str = Field(pattern=r"^AC[0-9a-fA-F]{32}$")
    key: str | None = Field(None, pattern=r"^SK[0-9a-fA-F]{32}$")
    from_: str = Field(alias="from")
    channel: Literal["sms", "whatsapp"] = "sms"
    text: Template | None = None
    content: str | None = Field(None, pattern=r"^HX[0-9a-fA-F]{32}$", description="SID of a content template")
    variables: dict[str, Template] = Field(default_factory=dict, description="of the content template")
    selector: Literal["email", "phone"] = "phone"

    @model_validator(mode="after")
    def _something(self) -> TwilioConfig:
        if (self.text is None) == (self.content is None):
            raise ValueError("say what to send: `text`, or `content` with its `variables`")
        if self.variables and self.content is None:
            raise ValueError("`variables` are of a content template: give its `content` in place of `text`")
        if not re.fullmatch(_SENDER, self.from_):
            raise ValueError("`from` is a number (+15005550006), a short code, a sender's name or a service (MG…)")
        if self.channel == "whatsapp" and not (_SERVICE.fullmatch(self.from_) or _NUMBER.fullmatch(self.from_)):
            raise ValueError("WhatsApp sends from a number (+15005550006) or a messaging service (MG…)")
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
        if _SERVICE.fullmatch(config.from_):
            form["MessagingServiceSid"] = config.from_
        else:
            form["From"] = prefix + config.from_
        if config.text is not None:
            text = fill(config.text, dispatch)
            if not text.strip() or len(text) > _MAX_BODY:
                raise ValueError(f"a message has 1 to {_MAX_BODY:,} characters, this one {len(text.strip()):,}")
            form["Body"] = text
        elif config.content is not None:
            form["ContentSid"] = config.content
            filled = {n: parameter(template, dispatch, f"variable {n}") for n, template in config.variables.items()}
            if filled:
                form["ContentVariables"] = orjson.dumps(filled).decode()
        url = url_of(config.address, f"/2010-04-01/Accounts/{config.account}/Messages.json")
        body = urlencode(form).encode()
        return post_json(url, body, _headers(config, secret), kind="application/x-www-form-urlencoded")

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By Twilio's own code where it is known, else by status: most 400s are about one number, some about all."""
        found = classify_status(status, headers)
        if found.outcome == "ok":
            return found
        try:
            said = orjson.loads(body)
            code, message = int(said["code"]), str(said["message"])[:300]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError):
            return found
        wait = MAX_RETRY_AFTER_S if code in _DAILY else found.retry_after
        return Classified(_MEANS.get(code, found.outcome), f"Twilio says {code}: {message}", wait)

    def probe(self, config: TwilioConfig, secret: str | None, now: Millis) -> Request:
        """The account, as it sees itself."""
        return get(url_of(config.address, f"/2010-04-01/Accounts/{config.account}.json"), _headers(config, secret))


def _headers(config: TwilioConfig, secret: str | None) -> dict[str, str]:
    token = needed(secret, "the auth token of the account, or of its API key")
    return {"authorization": basic(config.key or config.account, token)}
