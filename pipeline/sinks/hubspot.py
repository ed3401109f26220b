"""HubSpot: occurrences of custom events, in batches (``/events/v3/send/batch``). Dedup key: ``uuid``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import orjson
from pydantic import Field, HttpUrl, field_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, Template, fill, get, needed, post_json, said, url_of

__all__ = ["HubspotConfig", "HubspotSink"]

_NAMESPACE = UUID("6f1c8d0e-4d53-5a5b-9a0e-2b6b0f5e7c11")
_DAILY = b"DAILY"
#: ``pe{HubID}_{name}``, as HubSpot's guide to sending events has it.
_EVENT = re.compile(r"pe\d+_[A-Za-z0-9_-]+")


class HubspotConfig(BatchConfig):
    """``event``: the fully qualified name of the custom event, ``pe1234_order_completed``; may be a template."""

    address: Address = HttpUrl("https://api.hubapi.com")
    event: Template = Field(min_length=1)
    properties: bool = Field(True, description="send the event's properties; HubSpot refuses those it was not told of")

    @field_validator("event")
    @classmethod
    def _qualified(cls, value: str) -> str:
        # What is filled in is known with each record only.
        if "{" not in value and not value.startswith("$") and not _EVENT.fullmatch(value):
            raise ValueError("the fully qualified name is wanted, pe<HubID>_<name>, as the event's definition has it")
        return value


class HubspotSink(BatchSink[HubspotConfig]):
    """Secret: the access token of a private app that may send behavioral events."""

    kind = "hubspot"
    Config = HubspotConfig
    most = 500

    def part(self, dispatch: Dispatch, config: HubspotConfig, now: Millis) -> bytes:
        """``{"eventName", "uuid", "email", "occurredAt", "properties"}``."""
        told = self.told(dispatch, config)
        if told.email is None:
            raise ValueError("HubSpot knows contacts by e-mail; the customer has none")
        name = fill(config.event, dispatch)
        if not _EVENT.fullmatch(name):
            # Sent, it would be refused, and all of its request with it.
            raise ValueError(f"{name[:100]!r} is no fully qualified name, pe<HubID>_<name>; mend the setting event")
        event: dict[str, Any] = {
            "eventName": name,
            "uuid": str(uuid5(_NAMESPACE, told.id)),
            "email": told.email,
            "occurredAt": iso(told.time),
        }
        if config.properties:
            # HubSpot's properties are text.
            event["properties"] = {
                key: value if isinstance(value, str) else orjson.dumps(value).decode()
                for key, value in told.properties.items()
                if value is not None
            }
        return orjson.dumps(event)

    def request_of(self, parts: Sequence[bytes], config: HubspotConfig, secret: str | None, now: Millis) -> Request:
        """``{"inputs": […]}``."""
        body = b'{"inputs":[%b]}' % b",".join(parts)
        return post_json(url_of(config.address, "/events/v3/send/batch"), body, _headers(secret))

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; the day's quota waits for the day to end."""
        found = classify_status(status, headers)
        if found.outcome == "throttle" and _DAILY in body and found.retry_after is None:
            return found._replace(detail="the daily quota is used up", retry_after=3600.0)
        return found.saying(said(body, "message")) if found.outcome == "invalid" else found

    def probe(self, config: HubspotConfig, secret: str | None, now: Millis) -> Request:
        """Whose token it is."""
        return get(url_of(config.address, "/account-info/v3/details"), _headers(secret))


def _headers(secret: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {needed(secret, 'the access token of a private app')}"}
