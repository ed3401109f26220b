"""MoEngage: events of customers (Data API, ``/v1/event``). No dedup key: what is told twice counts twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Classified, Request, Sink, SinkConfig, iso
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, basic, needed, post_json, said, url_of

__all__ = ["MoengageConfig", "MoengageSink"]

#: MoEngage keeps it for itself, and may shut out an account that uses it.
_RESERVED = "moe_"
_PLATFORMS = {"ios": "iOS", "ipados": "iOS", "android": "ANDROID"}


class MoengageConfig(SinkConfig):
    """``app``: the workspace's id. ``centre``: the number of the data centre, as in the dashboard's address."""

    app: str = Field(pattern=r"^[A-Za-z0-9_-]{6,60}$")
    centre: int = Field(1, ge=1, le=9)
    address: Address | None = None


class MoengageSink(Sink[MoengageConfig]):
    """Secret: the Data API key."""

    kind = "moengage"
    Config = MoengageConfig
    # 30,000 events a minute.
    rate = 500.0

    def request(self, dispatch: Dispatch, config: MoengageConfig, secret: str | None, now: Millis) -> Request:
        """``{"type": "event", "customer_id", "actions": [{"action", "attributes", "platform"?, "current_time"}]}``."""
        told = self.told(dispatch, config)
        customer = told.known_as(config.selector) or told.anonymous_id
        if customer is None:
            raise ValueError("MoEngage knows customers by an id; here is none")
        if not told.name:
            raise ValueError("the event has no name")
        for name in (told.name, *told.properties):
            if name.startswith(_RESERVED):
                raise ValueError(f"{name!r}: MoEngage keeps names that begin with {_RESERVED} for itself; map it")
        action: dict[str, Any] = {
            "action": told.name,
            "attributes": {key: value for key, value in told.properties.items() if value is not None},
            "current_time": f"{iso(told.time)[:19]}Z",
        }
        platform = _platform(dispatch)
        if platform is not None:
            action["platform"] = platform
        body = {"type": "event", "customer_id": customer, "actions": [action]}
        host = f"https://api-{config.centre:02}.moengage.com"
        path = f"/v1/event/{config.app}"
        url = host + path if config.address is None else url_of(config.address, path)
        headers = {"authorization": basic(config.app, needed(secret, "the Data API key")), "moe-appkey": config.app}
        return post_json(url, body, headers)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and ``status: fail`` in an answer of 200."""
        found = classify_status(status, headers)
        why = said(body, "error", "message") or said(body, "message")
        if found.outcome == "ok" and said(body, "status") == "fail":
            return Classified("invalid", f"MoEngage refuses this record: {why}")
        return found.saying(why)


def _platform(dispatch: Dispatch) -> str | None:
    """Where it happened, where that is known: a wrong one misleads campaigns of a platform."""
    if dispatch.event.get("channel") == "Web":
        return "web"
    context = dispatch.event.get("context")
    system = context.get("os") if isinstance(context, dict) else None
    name = system.get("name") if isinstance(system, dict) else None
    return _PLATFORMS.get(name.lower()) if isinstance(name, str) else None
