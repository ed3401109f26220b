"""Klaviyo: events one by one or in bulk, or profiles (its OpenAPI of revision 2026-07-15).

Dedup key: ``unique_id``; Klaviyo keeps the first of a profile and metric. What is replayed is a ``backfill``, which
sets off no flow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from pydantic import Field, HttpUrl, model_validator

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, e164, get, needed, post_json, url_of
from pipeline.sinks.told import Told

__all__ = ["KlaviyoConfig", "KlaviyoSink"]

_REVISION = "2026-07-15"
_JSON_API = "application/vnd.api+json"
_MAX_PROPERTIES, _MAX_NAME = 400, 127
#: Whether a MB of Klaviyo's is 1000 or 1024 KB it doesn't say: what is refused here is too large either way.
_MAX_BYTES, _MAX_PROFILE, _MAX_STRING = 5 << 20, 100 << 10, 100 << 10
#: In UTC, 1990-01-01; and a year ahead, a leap year's day more.
_EARLIEST, _AHEAD_MS = 631_152_000_000, 366 * 86_400_000
#: ISO 4217. Another currency, coins of a wallet, stands in the properties alone.
_CURRENCY = re.compile(r"[A-Za-z]{3}")
_IDENTIFIERS = ("email", "phone_number", "external_id")
_BULK = b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[%b]}}}}'


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
    #: The smaller reading of 5 MB, less what stands around the entries and a comma between each two.
    most_bytes = 5_000_000 - 1_200

    def limits(self, config: KlaviyoConfig) -> tuple[float | None, int | None]:
        """A second, and at once: of events 3,500 a minute and 350, in bulk 150 and 10; of profiles 750 and 75."""
        if config.mode == "profiles":
            return 750 / 60, 75
        return (150 / 60, 10) if (config.batch or self.most) > 1 else (3500 / 60, 350)

    def part(self, dispatch: Dispatch, config: KlaviyoConfig, now: Millis) -> bytes:
        """An entry of the bulk request (``event-bulk-create``), or a profile's attributes.

        ValueError for what Klaviyo documents to refuse: in bulk it would refuse all others with it.
        """
        told = self.told(dispatch, config)
        who = _profile(told, config)
        if config.mode == "profiles":
            made = orjson.dumps(who | {"properties": told.traits})
            if len(made) > _MAX_PROFILE:
                raise ValueError(f"a profile has at most {_MAX_PROFILE:,} bytes, this one {len(made):,}")
            return made
        events = {"data": [{"type": "event", "attributes": _event(told, now)}]}
        attributes = {"profile": _data("profile", who), "events": events}
        made = orjson.dumps({"type": "event-bulk-create", "attributes": attributes})
        if len(made) > _MAX_BYTES:
            raise ValueError(f"an event has at most {_MAX_BYTES:,} bytes, this one {len(made):,}")
        if len(made) > _MAX_STRING and (long := _long(told.properties)):
            raise ValueError(f"property {long[:100]!r} has a text of more than {_MAX_STRING:,} bytes")
        return made

    def request_of(self, parts: Sequence[bytes], config: KlaviyoConfig, secret: str | None, now: Millis) -> Request:
        """One: ``/api/events`` or ``/api/profile-import``. Several: ``/api/event-bulk-create-jobs``.

        An event alone never goes to the bulk endpoint, also where it was refused there: a ``unique_id`` that Klaviyo
        knows already is taken by the one, and may be what the other refuses.
        """
        headers = _headers(secret)
        if config.mode == "profiles":
            body: Any = _data("profile", orjson.loads(parts[0]))
            return post_json(url_of(config.address, "/api/profile-import"), body, headers, kind=_JSON_API)
        entries = _once(parts)
        if len(entries) > 1:
            body = _BULK % b",".join(entries)
            return post_json(url_of(config.address, "/api/event-bulk-create-jobs"), body, headers, kind=_JSON_API)
        profile, event = _read(entries[0])
        body = _data("event", event | {"profile": _data("profile", profile)})
        return post_json(url_of(config.address, "/api/events"), body, headers, kind=_JSON_API)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; what is wrong, and where, is in ``errors[]`` (JSON:API)."""
        return classify_status(status, headers).saying(_why(body))

    def probe(self, config: KlaviyoConfig, secret: str | None, now: Millis) -> Request:
        """Whose key it is."""
        return get(url_of(config.address, "/api/accounts"), _headers(secret))


def _data(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes}}


def _headers(secret: str | None) -> dict[str, str]:
    key = needed(secret, "a private API key of Klaviyo's (pk_…)")
    return {"authorization": f"Klaviyo-API-Key {key}", "revision": _REVISION, "accept": _JSON_API}


def _profile(told: Told, config: KlaviyoConfig) -> dict[str, Any]:
    """Who it is, by all that Klaviyo may know it by; a number without its country code is none to it.

    Klaviyo joins for good the profiles that an e-mail and a phone sent together are of, so who is to be known by phone
    first is not told of by e-mail as well.
    """
    phone = e164(told.phone)
    email = None if config.selector == "phone" and phone is not None else told.email
    ids = {"email": email, "phone_number": phone, "external_id": told.user_id}
    if not any(ids.values()):
        raise ValueError("Klaviyo knows customers by e-mail, phone (with its country code) or user id; here is none")
    known = ids | {"first_name": told.first_name, "last_name": told.last_name}
    return {name: value for name, value in known.items() if value is not None}


def _event(told: Told, now: Millis) -> dict[str, Any]:
    """An event's attributes, without its profile."""
    if len(told.properties) > _MAX_PROPERTIES:
        raise ValueError(f"an event has at most {_MAX_PROPERTIES} properties, this one {len(told.properties)}")
    if not 0 < len(told.name) <= _MAX_NAME:
        raise ValueError(f"a metric's name has 1 to {_MAX_NAME} characters")
    if not _EARLIEST <= told.time <= now + _AHEAD_MS:
        raise ValueError(f"{iso(told.time)} is before 1990 or more than a year ahead")
    event: dict[str, Any] = {
        "properties": told.properties,
        "time": iso(told.time),
        "unique_id": told.id,
        "metric": _data("metric", {"name": told.name}),
    }
    if told.value is not None:
        event["value"] = told.value
        if told.currency is not None and _CURRENCY.fullmatch(told.currency):
            event["value_currency"] = told.currency.upper()
    if told.replayed:
        event["backfill"] = True
    return event


def _read(entry: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of the profile and of the event that a `KlaviyoSink.part` is of."""
    attributes = orjson.loads(entry)["attributes"]
    return attributes["profile"]["data"]["attributes"], attributes["events"]["data"][0]["attributes"]


def _once(parts: Sequence[bytes]) -> list[bytes]:
    """``parts`` without those whose ``unique_id`` another of the same profile and metric has.

    Klaviyo would refuse all for it; of one after the other it would keep the first, as here.
    """
    kept: list[bytes] = []
    seen: set[tuple[str, ...]] = set()
    for part in parts:
        profile, event = _read(part)
        name = event["metric"]["data"]["attributes"]["name"]
        keys = {(event["unique_id"], name, by, profile[by]) for by in _IDENTIFIERS if by in profile}
        if keys.isdisjoint(seen):
            kept.append(part)
        seen |= keys
    return kept


def _long(properties: Mapping[str, Any]) -> str:
    """The first property that holds a text longer than Klaviyo takes; empty where none does."""
    for name, value in properties.items():
        rest = [value]
        while rest:
            each = rest.pop()
            if isinstance(each, str) and len(each.encode()) > _MAX_STRING:
                return name or "(empty)"
            if isinstance(each, dict | list):
                rest.extend(each.values() if isinstance(each, dict) else each)
    return ""


def _why(body: bytes) -> str:
    """What an answer's first three ``errors[]`` say, with the place in the request where they say it."""
    try:
        errors = orjson.loads(body)["errors"][:3]
        said = [(error["detail"], (error.get("source") or {}).get("pointer")) for error in errors]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return ""
    return "; ".join(f"{detail} ({where})" if where else str(detail) for detail, where in said)[:600]
