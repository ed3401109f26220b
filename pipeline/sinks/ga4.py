"""Google Analytics 4: events by the Measurement Protocol. No dedup key; every answer is 204, whatever was sent.

A request holds the events of one client, and what waits together here is of different customers: one event a request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import Field, HttpUrl

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, needed, post_json, url_of

__all__ = ["Ga4Config", "Ga4Sink"]

_DAYS_MS = 3 * 86_400_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_MAX_PARAMETERS, _MAX_VALUE = 25, 100
_ENGAGED = "engagement_time_msec"
_RESERVED = ("google_", "ga_", "firebase_")
#: Names that Google keeps for what its tags collect (support.google.com/analytics/answer/13316687); of that list, those
#: that the Measurement Protocol takes all the same, as ``page_view``, are left out.
_KEPT = frozenset(
    (
        "app_remove",
        "app_store_refund",
        "app_store_subscription_cancel",
        "app_store_subscription_renew",
        "error",
        "first_open",
        "first_visit",
        "in_app_purchase",
        "session_start",
        "user_engagement",
    )
)


class Ga4Config(SinkConfig):
    """``measurement``: the id of the web stream, ``G-…``."""

    address: Address = HttpUrl("https://www.google-analytics.com")
    measurement: str = Field(pattern=r"^G-[A-Z0-9]{4,20}$")


class Ga4Sink(Sink[Ga4Config]):
    """Secret: an API secret of the Measurement Protocol."""

    kind = "ga4"
    Config = Ga4Config

    def request(self, dispatch: Dispatch, config: Ga4Config, secret: str | None, now: Millis) -> Request:
        """``{"client_id", "user_id", "timestamp_micros", "events": [{"name", "params"}]}``.

        ValueError for what is older than 3 days, which Google drops without a word.
        """
        told = self.told(dispatch, config)
        if told.time < now - _DAYS_MS:
            raise ValueError("it happened more than 3 days ago; Google Analytics would drop it without a word")
        name = re.sub(r"\W+", "_", told.name.strip(), flags=re.ASCII).strip("_").lower()[:40]
        if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
            raise ValueError(f"{told.name!r} makes no event name that Google takes: letters, digits, _; a letter first")
        if name in _KEPT:
            raise ValueError(
                f"Google keeps the event name {name!r} for itself; set another in the rule's prefix or mapping"
            )
        body: dict[str, Any] = {
            # A client id is wanted, and is a device's; a customer who was seen on none has its own.
            "client_id": told.anonymous_id or told.customer_id,
            "timestamp_micros": told.time * 1000,
            "events": [{"name": name, "params": _parameters(told.properties, told.value, told.currency)}],
        }
        if told.user_id is not None:
            body["user_id"] = told.user_id
        return post_json(self._url(config, secret, "/mp/collect"), body)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, which says no more than that Google was there."""
        return classify_status(status, headers)

    def _url(self, config: Ga4Config, secret: str | None, path: str) -> str:
        key = needed(secret, "an API secret of the Measurement Protocol")
        return url_of(config.address, path) + "?" + urlencode({"measurement_id": config.measurement, "api_secret": key})


def _parameters(properties: Mapping[str, Any], value: float | None, currency: str | None) -> dict[str, Any]:
    """Of those that Google takes: at most 25, text of 100 characters, no objects.

    Without a time of engagement Google counts nobody as active, and shows nothing in real time.
    """
    engaged = properties.get(_ENGAGED)
    found: dict[str, Any] = {_ENGAGED: engaged if type(engaged) in (int, float) else 1}
    if value is not None:
        found["value"] = value
    if currency is not None:
        found["currency"] = currency
    for name, each in properties.items():
        if len(found) >= _MAX_PARAMETERS:
            break
        if _NAME.fullmatch(name) and not name.startswith(_RESERVED) and name not in found:
            if isinstance(each, str):
                found[name] = each[:_MAX_VALUE]
            elif isinstance(each, int | float):
                found[name] = each
    return found
