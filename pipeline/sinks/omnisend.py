"""Omnisend: events of contacts (API v5).

Dedup key: ``eventID`` with ``eventTime``, of historical events alone: Omnisend says that what sets off automations is
not deduplicated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from pydantic import HttpUrl

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status, retry_after
from pipeline.sinks.requests import Address, e164, get, needed, post_json, said, url_of
from pipeline.sinks.told import Told

__all__ = ["OmnisendConfig", "OmnisendSink"]

_NAMESPACE = UUID("0c7e3a52-9a4c-5b0e-8f6d-7d1f1e2a4b33")
_SECRET = frozenset({"x-api-key"})
_MAX_NAME = 50


class OmnisendConfig(SinkConfig):
    """``version``: of the events that Omnisend predefines (``v2``), as its page of each says; none of custom ones."""

    address: Address = HttpUrl("https://api.omnisend.com")
    version: str = ""


class OmnisendSink(Sink[OmnisendConfig]):
    """Secret: an API key."""

    kind = "omnisend"
    Config = OmnisendConfig
    rate = 400 / 60

    def request(self, dispatch: Dispatch, config: OmnisendConfig, secret: str | None, now: Millis) -> Request:
        """``{"eventName", "origin", "eventID", "eventTime", "contact", "properties"}``."""
        told = self.told(dispatch, config)
        contact = _contact(told, config)
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
        """By status; how long to wait is in a header of Omnisend's own, the rest of a minute."""
        found = classify_status(status, headers)
        if found.outcome == "throttle" and found.retry_after is None:
            return found._replace(retry_after=retry_after(headers.get("x-rate-limit-reset"), time.time()))
        return found.saying(f"{said(body, 'error')} {said(body, 'fields')}".strip())

    def probe(self, config: OmnisendConfig, secret: str | None, now: Millis) -> Request:
        """The brand that the key is of."""
        return get(url_of(config.address, "/v5/brands/current"), _headers(secret), secret=_SECRET)


def _headers(secret: str | None) -> dict[str, str]:
    return {"x-api-key": needed(secret, "an API key of Omnisend's")}


def _contact(told: Told, config: OmnisendConfig) -> dict[str, Any]:
    """Who it is: by e-mail and phone, by the phone alone where that comes first (`SinkConfig.selector`)."""
    phone = e164(told.phone)
    contact = {
        "email": None if config.selector == "phone" and phone is not None else told.email,
        "phone": phone,
        # Longer ones would have the event refused.
        "firstName": told.first_name and told.first_name[:_MAX_NAME],
        "lastName": told.last_name and told.last_name[:_MAX_NAME],
    }
    if contact["email"] is None and phone is None:
        raise ValueError("Omnisend knows contacts by e-mail or phone (with its country code); here is none")
    return {name: value for name, value in contact.items() if value is not None}
