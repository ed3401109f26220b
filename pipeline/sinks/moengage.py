"""MoEngage: events of customers (Data API, ``/v1/event``). No dedup key that its documents promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, basic, needed, post_json, said, url_of

__all__ = ["MoengageConfig", "MoengageSink"]


class MoengageConfig(SinkConfig):
    """``app``: the workspace's app id. ``centre``: the number of the data centre, as in the dashboard's address."""

    app: str = Field(pattern=r"^[A-Za-z0-9_-]{6,60}$")
    centre: int = Field(1, ge=1, le=9)
    address: Address | None = None


class MoengageSink(Sink[MoengageConfig]):
    """Secret: the Data API key."""

    kind = "moengage"
    Config = MoengageConfig

    def request(self, dispatch: Dispatch, config: MoengageConfig, secret: str | None, now: Millis) -> Request:
        """``{"type": "event", "customer_id", "actions": [{"action", "attributes", "user_time"}]}``."""
        told = self.told(dispatch, config)
        first = told.phone if config.selector == "phone" else told.email
        customer = told.user_id or first or told.email or told.phone or told.anonymous_id
        if customer is None:
            raise ValueError("MoEngage knows customers by an id; here is none")
        action: dict[str, Any] = {
            "action": told.name,
            "attributes": told.properties,
            "platform": "web",
            "current_time": told.time / 1000,
        }
        body = {"type": "event", "customer_id": customer, "actions": [action]}
        host = f"https://api-{config.centre:02}.moengage.com"
        path = f"/v1/event/{config.app}"
        url = host + path if config.address is None else url_of(config.address, path)
        return post_json(url, body, {"authorization": basic(config.app, needed(secret, "the Data API key"))})

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and ``status: fail`` in an answer of 200."""
        found = classify_status(status, headers)
        why = said(body, "error", "message") or said(body, "message")
        if found.outcome == "ok" and said(body, "status") == "fail":
            return Classified("invalid", f"MoEngage refuses this record: {why}")
        return found._replace(detail=f"{found.detail}: {why}") if why and found.outcome != "ok" else found
