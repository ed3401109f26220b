"""Klaviyo: events one by one or in bulk, or profiles (its OpenAPI of revision 2026-07-15).

Dedup key: ``unique_id``; Klaviyo keeps the first of a profile and metric. What is replayed is a ``backfill``, which
sets off no flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from pydantic import Field, HttpUrl, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, e164, get, needed, post_json, said, url_of
from pipeline.sinks.told import Told

__all__ = ["KlaviyoConfig", "KlaviyoSink"]

_REVISION = "2026-07-15"
_JSON_API = "application/vnd.api+json"
_MAX_PROPERTIES, _MAX_BYTES, _MAX_NAME = 400, 5_000_000, 127


class KlaviyoConfig(BatchConfig):
    """``mode``: ``events``, or ``profiles`` (who the customer is, and its traits). ``batch`` above 1 uses the bulk
    endpoint, which takes 10 requests a second and refuses all of a request for one wrong event."""

    address: Address = HttpUrl("https://a.klaviyo.com")
    mode: Literal["events", "profiles"] = "events"
    batch: int | None = Field(1, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_profile(self) -> KlaviyoConfig:
        if self.mode == "profiles" and self.batch != 1:
            raise ValueError("profiles are sent one by one: leave `batch` out")
        return self


class KlaviyoSink(BatchSink[KlaviyoConfig]):
    """Secret: a private API key (``pk_…``)."""

    kind = "klaviyo"
    Config = KlaviyoConfig
    most = 1000
    most_bytes = _MAX_BYTES

    def limits(self, config: KlaviyoConfig) -> tuple[float | None, int | None]:
        """350 at once and 3,500 a minute; of the bulk endpoint 10 and 150."""
        return (150 / 60, 10) if (config.batch or self.most) > 1 else (3500 / 60, 350)

    def part(self, dispatch: Dispatch, config: KlaviyoConfig, now: Millis) -> bytes:
        """``{"event", "profile"}`` attributes, or a profile's. ValueError for what Klaviyo documents to refuse."""
        told = self.told(dispatch, config)
        who = _profile(told)
        if config.mode == "profiles":
            return orjson.dumps(who | {"properties": told.traits})
        if len(told.properties) > _MAX_PROPERTIES:
            raise ValueError(f"an event has at most {_MAX_PROPERTIES} properties, this one {len(told.properties)}")
        if not 0 < len(told.name) <= _MAX_NAME:
            raise ValueError(f"a metric's name has 1 to {_MAX_NAME} characters")
        event: dict[str, Any] = {
            "properties": told.properties,
            "time": iso(told.time),
            "unique_id": told.id,
            "metric": {"data": {"type": "metric", "attributes": {"name": told.name}}},
        }
        if told.value is not None:
            event["value"] = told.value
            if told.currency is not None:
                event["value_currency"] = told.currency
        if told.replayed:
            event["backfill"] = True
        made = orjson.dumps({"event": event, "profile": who})
        if len(made) > _MAX_BYTES:
            raise ValueError(f"an event has at most {_MAX_BYTES:,} bytes, this one {len(made):,}")
        return made

    def request_of(self, parts: Sequence[bytes], config: KlaviyoConfig, secret: str | None, now: Millis) -> Request:
        """One: ``/api/events`` or ``/api/profile-import``. Several: ``/api/event-bulk-create-jobs``."""
        headers = _headers(secret)
        if config.mode == "profiles":
            body: Any = {"data": {"type": "profile", "attributes": orjson.loads(parts[0])}}
            return post_json(url_of(config.address, "/api/profile-import"), body, headers, kind=_JSON_API)
        found = [orjson.loads(part) for part in parts]
        if len(found) == 1:
            attributes = found[0]["event"] | {"profile": _data("profile", found[0]["profile"])}
            body = {"data": {"type": "event", "attributes": attributes}}
            return post_json(url_of(config.address, "/api/events"), body, headers, kind=_JSON_API)
        events = [
            {
                "type": "event-bulk-create",
                "attributes": {
                    "profile": _data("profile", each["profile"]),
                    "events": {"data": [{"type": "event", "attributes": each["event"]}]},
                },
            }
            for each in found
        ]
        body = _data("event-bulk-create-job", {"events-bulk-create": {"data": events}})
        return post_json(url_of(config.address, "/api/event-bulk-create-jobs"), body, headers, kind=_JSON_API)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; what is wrong with a record is in ``errors[].detail`` (JSON:API)."""
        found = classify_status(status, headers)
        if found.outcome == "ok":
            return found
        why = said(body, "errors", 0, "detail")
        return found._replace(detail=f"{found.detail}: {why}") if why else found

    def probe(self, config: KlaviyoConfig, secret: str | None, now: Millis) -> Request:
        """Whose key it is."""
        return get(url_of(config.address, "/api/accounts"), _headers(secret))


def _data(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes}}


def _headers(secret: str | None) -> dict[str, str]:
    key = needed(secret, "a private API key of Klaviyo's (pk_…)")
    return {"authorization": f"Klaviyo-API-Key {key}", "revision": _REVISION, "accept": _JSON_API}


def _profile(told: Told) -> dict[str, Any]:
    """Who it is, by all that Klaviyo may know it by; a number without its country code is none to it."""
    ids = {"email": told.email, "phone_number": e164(told.phone), "external_id": told.user_id}
    if not any(ids.values()):
        raise ValueError("Klaviyo knows customers by e-mail, phone (with its country code) or user id; here is none")
    known = ids | {"first_name": told.first_name, "last_name": told.last_name}
    return {name: value for name, value in known.items() if value is not None}
