"""Gupshup: a WhatsApp template message (``/wa/api/v1/template/msg``). No dedup key: a repeat is a second message."""

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
from pipeline.sinks.requests import Address, Template, e164, needed, parameter, post_json, said, url_of

__all__ = ["GupshupConfig", "GupshupSink"]

_SECRET = frozenset({"apikey"})
#: What Gupshup says with 400 of an app or number that is none of the account's.
_SETUP = "invalid app details"


class GupshupConfig(SinkConfig):
    """``source``: the business' number. ``app``: its name at Gupshup. ``template``: its id; ``parameters``: for it.

    ``media``: what the template's header is, where it is no text, at the address ``link``.
    """

    address: Address = HttpUrl("https://api.gupshup.io")
    source: str = Field(pattern=r"^\d{7,15}$")
    app: str = Field(min_length=1, max_length=100)
    template: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    parameters: list[Template] = Field(default_factory=list, max_length=50)
    media: Literal["image", "video", "document"] | None = None
    link: Template | None = None

    @model_validator(mode="after")
    def _whole(self) -> GupshupConfig:
        if (self.media is None) != (self.link is None):
            raise ValueError("`media` says what stands at `link`: give both, or neither")
        return self


class GupshupSink(Sink[GupshupConfig]):
    """Secret: the API key."""

    kind = "gupshup"
    Config = GupshupConfig

    def request(self, dispatch: Dispatch, config: GupshupConfig, secret: str | None, now: Millis) -> Request:
        """A form. ValueError for a customer without a phone number, and for an empty parameter."""
        phone = e164(self.told(dispatch, config).phone)
        if phone is None:
            raise ValueError("the customer has no phone number with its country code")
        parameters = [parameter(each, dispatch, f"parameter {at}") for at, each in enumerate(config.parameters, 1)]
        form = {
            "channel": "whatsapp",
            "source": config.source,
            "destination": phone.removeprefix("+"),
            "src.name": config.app,
            "template": orjson.dumps({"id": config.template, "params": parameters}).decode(),
        }
        if config.media is not None and config.link is not None:
            link = parameter(config.link, dispatch, "the link")
            form["message"] = orjson.dumps({"type": config.media, config.media: {"link": link}}).decode()
        return post_json(
            url_of(config.address, "/wa/api/v1/template/msg"),
            urlencode(form).encode(),
            {"apikey": needed(secret, "the API key of Gupshup")},
            secret=_SECRET,
            kind="application/x-www-form-urlencoded",
        )

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and by ``status: error`` in an answer of 2xx."""
        found = classify_status(status, headers)
        why = said(body, "message")
        if _SETUP in why.lower() and found.outcome in ("ok", "invalid"):
            return Classified("setup", f"Gupshup says: {why}")
        if found.outcome == "ok" and said(body, "status") == "error":
            return Classified("invalid", f"Gupshup refuses this record: {why}")
        return found.saying(why)
