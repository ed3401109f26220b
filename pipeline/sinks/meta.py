"""Meta: events of the Conversions API, in batches. Dedup key: ``event_id`` together with ``event_name``.

Who it is goes out as SHA-256 of what Meta has normalised, never as it is.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import Field, HttpUrl

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, e164, get, needed, post_json, url_of
from pipeline.sinks.told import Told

__all__ = ["MetaConfig", "MetaSink"]

#: One event older than a week fails all of its request; an hour is left for the way.
_OLDEST_MS = 7 * 86_400_000 - 3_600_000
#: Where it happened, by channel. Mobile is none of them: ``app`` must come with ``app_data``, the device's ``extinfo``
#: and two consents, which no event of ours carries.
_ACTIONS = {
    "web": "website",
    "e-mail": "email",
    "call center": "phone_call",
    "messenger": "chat",
}
_OTHER = "other"
#: Ends an event that is a test. A request has one ``test_event_code``, and knows its events by their bytes alone; JSON
#: may end with a space.
_TEST = b" "
#: Meta's error codes (graph API): rate limits, transient faults, credentials.
_THROTTLE, _TRANSIENT, _SETUP = {4, 17, 32, 613, 80004}, {1, 2}, {10, 100, 102, 190, 200, 803}


class MetaConfig(BatchConfig):
    """``pixel``: the dataset's id. ``testing_code``: as the Events Manager shows it; sent with tests of
    rules alone."""

    address: Address = HttpUrl("https://graph.facebook.com")
    version: str = Field("v23.0", pattern=r"^v\d{1,2}\.\d$")
    pixel: str = Field(pattern=r"^\d{5,20}$")
    testing_code: str | None = Field(None, max_length=40)


class MetaSink(BatchSink[MetaConfig]):
    """Secret: an access token of the dataset."""

    kind = "meta"
    Config = MetaConfig
    most = 1000

    def part(self, dispatch: Dispatch, config: MetaConfig, now: Millis) -> bytes:
        """An event of ``data``. ValueError for what is a week old, and for who Meta can't know."""
        told = self.told(dispatch, config)
        if told.time < now - _OLDEST_MS:
            raise ValueError("it happened a week ago; Meta refuses all of a request for one such event")
        user = _user(told, dispatch.event)
        action = _ACTIONS.get(str(dispatch.event.get("channel", "")).lower(), _OTHER)
        place = _place(dispatch.event)
        if action == "website" and not (place and "client_user_agent" in user):
            # Meta wants the page and the browser's name with every event of a site.
            action = _OTHER
        event: dict[str, Any] = {
            "event_name": told.name,
            "event_time": told.time // 1000,
            "event_id": told.id,
            "action_source": action,
            "user_data": user,
            "custom_data": told.properties
            | ({} if told.value is None else {"value": told.value})
            | ({} if told.currency is None else {"currency": told.currency}),
        }
        if action == "website":
            event["event_source_url"] = place
        return orjson.dumps(event) + (_TEST if told.test else b"")

    def request_of(self, parts: Sequence[bytes], config: MetaConfig, secret: str | None, now: Millis) -> Request:
        """``{"data": […]}``; the token in a header, so that no log of addresses has it."""
        body = b'{"data":[%b]' % b",".join(parts)
        if config.testing_code is not None and any(part.endswith(_TEST) for part in parts):
            body += b',"test_event_code":' + orjson.dumps(config.testing_code)
        url = url_of(config.address, f"/{config.version}/{config.pixel}/events")
        return post_json(url, body + b"}", _headers(secret))

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By the code of Meta's error: its statuses say little."""
        found = classify_status(status, headers)
        if found.outcome == "ok":
            return found
        try:
            error = orjson.loads(body)["error"]
            code, said = int(error["code"]), str(error["message"])[:300]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return found
        detail = f"Meta says {code}: {said}"
        if code in _THROTTLE:
            return Classified("throttle", detail, found.retry_after)
        if code in _TRANSIENT:
            return Classified("transient", detail)
        # 100 is "invalid parameter", which a record may be as well as a pixel: a subcode tells of the pixel.
        if code in _SETUP and (code != 100 or error.get("error_subcode") == 33):
            return Classified("setup", detail)
        return found._replace(outcome="invalid" if 400 <= status < 500 else found.outcome, detail=detail)

    def probe(self, config: MetaConfig, secret: str | None, now: Millis) -> Request:
        """Whether the token may see the dataset."""
        return get(url_of(config.address, f"/{config.version}/{config.pixel}?fields=id"), _headers(secret))


def _headers(secret: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {needed(secret, 'an access token of the dataset')}"}


def _user(told: Told, event: Mapping[str, Any]) -> dict[str, Any]:
    """``user_data``, hashed as Meta normalises: e-mail in lower case, phone as digits with the country code."""
    phone = e164(told.phone)
    found: dict[str, Any] = {}
    for name, value in (
        ("em", told.email.strip().lower() if told.email else None),
        ("ph", phone.removeprefix("+") if phone else None),
        ("fn", _letters(told.first_name)),
        ("ln", _letters(told.last_name)),
        ("external_id", told.user_id or told.anonymous_id),
    ):
        if value:
            found[name] = [hashlib.sha256(value.encode()).hexdigest()]
    # A server that passes events on is not their agent: as intake has it (`events.facts`).
    context = _object(event.get("context"))
    agent = context.get("userAgent") or event.get("ua")
    if isinstance(agent, str) and agent:
        found["client_user_agent"] = agent
    address = context.get("ip") or event.get("ip")
    if _is_address(address):
        found["client_ip_address"] = address
    if not found:
        raise ValueError("Meta knows people by e-mail, phone or id; here is none")
    return found


def _place(event: Mapping[str, Any]) -> str | None:
    """The address of the page: the context's, or that of a page view, which tells it itself."""
    found = _object(_object(event.get("context")).get("page")).get("url")
    if not found and event.get("type") == "page":
        found = _object(event.get("properties")).get("url")
    return found if isinstance(found, str) and found else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_address(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _letters(name: str | None) -> str | None:
    return re.sub(r"[\W\d_]+", "", name.lower()) if name else None
