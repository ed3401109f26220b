"""Gupshup: a WhatsApp template message (``/wa/api/v1/template/msg``). No dedup key: a repeat is a second message."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import orjson
from pydantic import Field, HttpUrl

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, e164, fill, needed, post_json, said, url_of

__all__ = ["GupshupConfig", "GupshupSink"]

_SECRET = frozenset({"apikey"})


class GupshupConfig(SinkConfig):
    """``source``: the business' number. ``app``: its name at Gupshup. ``template``: its id; ``parameters``: for it."""

    address: Address = HttpUrl("https://api.gupshup.io")
    source: str = Field(pattern=r"^\d{7,15}$")
    app: str = Field(min_length=1, max_length=100)
    template: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    parameters: list[Template] = Field(default_factory=list, max_length=50)


class GupshupSink(Sink[GupshupConfig]):
    """Secret: the API key."""

    kind = "gupshup"
    Config = GupshupConfig

    def request(self, dispatch: Dispatch, config: GupshupConfig, secret: str | None, now: Millis) -> Request:
        """A form. ValueError for a customer without a phone number."""
        phone = e164(self.told(dispatch, config).phone)
        if phone is None:
            raise ValueError("the customer has no phone number with its country code")
        parameters = [fill(parameter, dispatch) for parameter in config.parameters]
        form = {
            "channel": "whatsapp",
            "source": config.source,
            "destination": phone.removeprefix("+"),
            "src.name": config.app,
            "template": orjson.dumps({"id": config.template, "params": parameters}).decode(),
        }
        headers = {"apikey": needed(secret, "the API key of Gupshup")}
        return post_json(
            url_of(config.address, "/wa/api/v1/template/msg"),
            urlencode(form).encode(),
            headers,
            secret=_SECRET,
            kind="application/x-www-form-urlencoded",
        )

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and ``status: error`` in an answer of 200."""
        found = classify_status(status, headers)
        why = said(body, "message")
        if found.outcome == "ok" and said(body, "status") == "error":
            return Classified("invalid", f"Gupshup refuses this record: {why}")
        return found._replace(detail=f"{found.detail}: {why}") if why and found.outcome != "ok" else found
