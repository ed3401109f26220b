"""WebEngage: events of users (REST API, ``/v1/accounts/{licence}/events``). No dedup key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, needed, post_json, said, url_of

__all__ = ["WebengageConfig", "WebengageSink"]

_HOSTS = {
    "us": "https://api.webengage.com",
    "in": "https://api.in.webengage.com",
    "ksa": "https://api.ksa.webengage.com",
}
#: Names "must be less than 50 characters long".
_NAME_BELOW = 50
#: WebEngage keeps it for itself, and ignores what it is on.
_RESERVED = "we_"


class WebengageConfig(SinkConfig):
    """``licence``: the account's licence code. ``region``: where the account is."""

    licence: str = Field(pattern=r"^[~A-Za-z0-9_-]{4,40}$")
    region: Literal["us", "in", "ksa"] = "us"
    address: Address | None = None


class WebengageSink(Sink[WebengageConfig]):
    """Secret: the API key."""

    kind = "webengage"
    Config = WebengageConfig

    def request(self, dispatch: Dispatch, config: WebengageConfig, secret: str | None, now: Millis) -> Request:
        """``{"userId" | "anonymousId", "eventName", "eventTime", "eventData"}``."""
        told = self.told(dispatch, config)
        if not 0 < len(told.name) < _NAME_BELOW:
            raise ValueError(f"an event's name has 1 to {_NAME_BELOW - 1} characters at WebEngage")
        if told.name.startswith(_RESERVED):
            raise ValueError(f"{told.name!r}: WebEngage ignores events whose name begins with {_RESERVED}; map it")
        user = told.known_as(config.selector)
        if user is None and told.anonymous_id is None:
            raise ValueError("WebEngage knows users by user id or anonymous id; here is none")
        who: dict[str, Any] = {"userId": user} if user is not None else {"anonymousId": told.anonymous_id}
        body = who | {
            "eventName": told.name,
            # yyyy-MM-ddTHH:mm:ss±hhmm
            "eventTime": f"{iso(told.time)[:19]}+0000",
            "eventData": {key: value for key, value in told.properties.items() if value is not None},
        }
        path = f"/v1/accounts/{config.licence}/events"
        url = _HOSTS[config.region] + path if config.address is None else url_of(config.address, path)
        return post_json(url, body, {"authorization": f"Bearer {needed(secret, 'the API key of WebEngage')}"})

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status: 401 for the key, 404 for the licence code."""
        return classify_status(status, headers).saying(said(body, "response", "message") or said(body, "message"))
