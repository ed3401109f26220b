"""Omnisend: custom events of contacts (API v5). Dedup key: ``eventID``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from pydantic import HttpUrl

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, e164, get, needed, post_json, said, url_of

__all__ = ["OmnisendConfig", "OmnisendSink"]

_NAMESPACE = UUID("0c7e3a52-9a4c-5b0e-8f6d-7d1f1e2a4b33")
_SECRET = frozenset({"x-api-key"})


class OmnisendConfig(SinkConfig):
    """``version``: of events, where their properties changed over time."""

    address: Address = HttpUrl("https://api.omnisend.com")
    version: str = ""


class OmnisendSink(Sink[OmnisendConfig]):
    """Secret: an API key."""

    kind = "omnisend"
    Config = OmnisendConfig

    def request(self, dispatch: Dispatch, config: OmnisendConfig, secret: str | None, now: Millis) -> Request:
        """``{"eventName", "origin", "eventID", "eventTime", "contact", "properties"}``."""
        told = self.told(dispatch, config)
        contact: dict[str, Any] = {
            "email": told.email,
            "phone": e164(told.phone),
            "firstName": told.first_name,
            "lastName": told.last_name,
        }
        contact = {name: value for name, value in contact.items() if value is not None}
        if "email" not in contact and "phone" not in contact:
            raise ValueError("Omnisend knows contacts by e-mail or phone (with its country code); here is none")
        body: dict[str, Any] = {
            "eventName": told.name,
            "origin": "api",
            "eventID": str(uuid5(_NAMESPACE, told.id)),
            "eventTime": iso(told.time),
            "contact": contact,
            "properties": told.properties,
        }
        if config.version:
            body["eventVersion"] = config.version
        return post_json(url_of(config.address, "/v5/events"), body, _headers(secret), secret=_SECRET)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status."""
        found = classify_status(status, headers)
        why = said(body, "error") or said(body, "title")
        return found._replace(detail=f"{found.detail}: {why}") if why and found.outcome != "ok" else found

    def probe(self, config: OmnisendConfig, secret: str | None, now: Millis) -> Request:
        """The brand that the key is of."""
        return get(url_of(config.address, "/v5/brands/current"), _headers(secret), secret=_SECRET)


def _headers(secret: str | None) -> dict[str, str]:
    return {"x-api-key": needed(secret, "an API key of Omnisend's")}
