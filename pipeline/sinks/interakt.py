"""Interakt: events of users, or a WhatsApp template message (public API). No dedup key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import phonenumbers
from pydantic import Field, HttpUrl, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, e164, needed, parameter, post_json, said, url_of

__all__ = ["InteraktConfig", "InteraktSink"]


class InteraktConfig(SinkConfig):
    """``template``: name of a message template; without it the event is told, for Interakt's own campaigns.

    ``language``: of the template. ``values``: for its body, in order; ``header``: for its header, the text or the
    address of a picture, video or document, whose name is ``file``; ``buttons``: place from 0 -> what follows its
    address.
    """

    address: Address = HttpUrl("https://api.interakt.ai")
    template: str | None = Field(None, pattern=r"^[a-z0-9_]{1,512}$")
    language: str = Field("en", pattern=r"^[a-z]{2,3}(?:_[A-Z]{2})?$")
    values: list[Template] = Field(default_factory=list, max_length=50)
    header: Template | None = None
    file: Template | None = None
    buttons: dict[str, Template] = Field(default_factory=dict, max_length=10)

    @model_validator(mode="after")
    def _of_a_template(self) -> InteraktConfig:
        if self.template is None and (self.values or self.header or self.file or self.buttons):
            raise ValueError("`values`, `header`, `file` and `buttons` are of a message: give its `template` too")
        if not all(place.isascii() and place.isdigit() for place in self.buttons):
            raise ValueError("`buttons` names buttons by their place: 0, 1 …")
        return self


class InteraktSink(Sink[InteraktConfig]):
    """Secret: the API key, as Interakt shows it (it is in base64 already)."""

    kind = "interakt"
    Config = InteraktConfig
    # 300 a minute: the least of those that are published by plan.
    rate = 5.0

    def request(self, dispatch: Dispatch, config: InteraktConfig, secret: str | None, now: Millis) -> Request:
        """POST to ``track/events/`` or, with a template, to ``message/``."""
        told = self.told(dispatch, config)
        headers = {"authorization": f"Basic {needed(secret, 'the API key of Interakt')}"}
        phone = _split(told.phone)
        if config.template is None:
            if told.user_id is None and phone is None:
                raise ValueError("Interakt knows users by user id or phone (with its country code); here is none")
            who: dict[str, Any] = {"userId": told.user_id} if told.user_id is not None else dict(phone or {})
            body = who | {"event": told.name, "traits": told.properties, "createdAt": iso(told.time)}
            return post_json(url_of(config.address, "/v1/public/track/events/"), body, headers)
        if phone is None:
            raise ValueError("the customer has no phone number with its country code")
        body = phone | {"type": "Template", "callbackData": told.id, "template": _template(config, dispatch)}
        return post_json(url_of(config.address, "/v1/public/message/"), body, headers)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and ``result: false`` in an answer of 200."""
        found = classify_status(status, headers)
        why = said(body, "message")
        if found.outcome == "ok" and said(body, "result") == "False":
            return Classified("invalid", f"Interakt refuses this record: {why}")
        return found.saying(why)


def _template(config: InteraktConfig, dispatch: Dispatch) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": config.template,
        "languageCode": config.language,
        "bodyValues": [parameter(each, dispatch, f"value {at}") for at, each in enumerate(config.values, 1)],
    }
    if config.header is not None:
        made["headerValues"] = [parameter(config.header, dispatch, "the header")]
    if config.file is not None:
        made["fileName"] = parameter(config.file, dispatch, "the file's name")
    if config.buttons:
        made["buttonValues"] = {
            place: [parameter(each, dispatch, f"button {place}")] for place, each in config.buttons.items()
        }
    return made


def _split(phone: str | None) -> dict[str, str] | None:
    """Country code and number apart, as Interakt wants them."""
    whole = e164(phone)
    if whole is None:
        return None
    code = f"+{phonenumbers.parse(whole).country_code}"
    return {"countryCode": code, "phoneNumber": whole.removeprefix(code)}
