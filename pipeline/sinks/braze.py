"""Braze: custom events of users (``/users/track``). No dedup key: what is told twice counts twice."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request, iso
from pipeline.sinks.classify import MAX_RETRY_AFTER_S, classify_status
from pipeline.sinks.requests import Address, e164, needed, place_of, post_json, said, url_of

__all__ = ["BrazeConfig", "BrazeSink"]

_MAX_NAME = 255


class BrazeConfig(BatchConfig):
    """``address``: of the instance, ``https://rest.iad-01.braze.com``. ``app``: the app's identifier."""

    address: Address
    app: str | None = None


class BrazeSink(BatchSink[BrazeConfig]):
    """Secret: a REST API key that may ``users.track``."""

    kind = "braze"
    Config = BrazeConfig
    most = 75
    rate = 1000.0

    def part(self, dispatch: Dispatch, config: BrazeConfig, now: Millis) -> bytes:
        """An event object: who, ``name``, ``time``, ``properties``."""
        told = self.told(dispatch, config)
        if not 0 < len(told.name) <= _MAX_NAME:
            raise ValueError(f"an event's name has 1 to {_MAX_NAME} characters")
        phone = e164(told.phone)
        who: dict[str, Any]
        if told.user_id is not None:
            who = {"external_id": told.user_id}
        elif config.selector == "phone" and phone is not None:
            who = {"phone": phone}
        elif told.email is not None:
            who = {"email": told.email}
        elif phone is not None:
            who = {"phone": phone}
        elif told.anonymous_id is not None:
            who = {"user_alias": {"alias_name": told.anonymous_id, "alias_label": "anonymous_id"}}
        else:
            raise ValueError("Braze knows users by user id, e-mail, phone or anonymous id; here is none")
        event = who | {"name": told.name, "time": iso(told.time), "properties": told.properties}
        if config.app is not None:
            event["app_id"] = config.app
        if "external_id" not in who:
            event["_update_existing_only"] = False
        return orjson.dumps(event)

    def request_of(self, parts: Sequence[bytes], config: BrazeConfig, secret: str | None, now: Millis) -> Request:
        """``{"events": […]}``."""
        headers = {"authorization": f"Bearer {needed(secret, 'a REST API key of Braze')}"}
        return post_json(url_of(config.address, "/users/track"), b'{"events":[%b]}' % b",".join(parts), headers)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status; how long to wait, Braze says in headers of its own (`_wait`)."""
        found = classify_status(status, headers)
        if found.outcome == "throttle" and (wait := _wait(headers, time.time())) is not None:
            found = found._replace(retry_after=wait)
        return found.saying(said(body, "message")) if found.outcome == "invalid" else found

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """What was taken in part names in ``errors`` the events that were not, by ``index``.

        An error that names none of them leaves all as taken: Braze has no dedup key, so asking again would double.
        """
        found = self.classify(status, headers, body)
        if found.outcome != "ok":
            return found
        try:
            errors = orjson.loads(body)["errors"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return found
        if not isinstance(errors, list):
            return found
        each = [found] * len(parts)
        for error in errors:
            at = place_of(error, "index", len(parts))
            if at is not None and _of_event(error):
                each[at] = Classified("invalid", f"Braze refuses this record: {str(error.get('type'))[:300]}")
        return each


def _of_event(error: Any) -> bool:
    """Whether an entry of ``errors`` is about the events that were sent."""
    return isinstance(error, dict) and error.get("input_array", "events") == "events"


def _wait(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds to wait: ``X-RateLimit-Retry-After``, else until ``X-RateLimit-Reset`` (seconds since 1970)."""
    for name, since in (("x-ratelimit-retry-after", 0.0), ("x-ratelimit-reset", now_s)):
        value = headers.get(name, "").strip()
        if value.isascii() and value.isdigit():
            return min(max(float(value[:12]) - since, 0.0), MAX_RETRY_AFTER_S)
    return None
