"""CleverTap: events of profiles, in batches (``/1/upload``). No dedup key: what is told twice counts twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, needed, post_json, url_of

__all__ = ["ClevertapConfig", "ClevertapSink"]

_SECRET = frozenset({"x-clevertap-passcode"})
_MAX_NAME = 512


class ClevertapConfig(BatchConfig):
    """``account``: its id. ``region``: as in the dashboard's address (``in1``, ``us1``, ``sg1`` …)."""

    account: str = Field(pattern=r"^[A-Z0-9-]{4,40}$")
    region: str = Field("in1", pattern=r"^[a-z]{2,4}\d$")
    address: Address | None = None


class ClevertapSink(BatchSink[ClevertapConfig]):
    """Secret: the account's passcode."""

    kind = "clevertap"
    Config = ClevertapConfig
    most = 1000

    def part(self, dispatch: Dispatch, config: ClevertapConfig, now: Millis) -> bytes:
        """``{"type": "event", "identity", "ts", "evtName", "evtData"}``."""
        told = self.told(dispatch, config)
        if not 0 < len(told.name) <= _MAX_NAME:
            raise ValueError(f"an event's name has 1 to {_MAX_NAME} characters")
        identity = (
            told.user_id or (told.phone if config.selector == "phone" else told.email) or told.email or told.phone
        )
        who: dict[str, Any]
        if identity is not None:
            who = {"identity": identity}
        elif told.anonymous_id is not None:
            who = {"objectId": told.anonymous_id}
        else:
            raise ValueError("CleverTap knows profiles by an identity or an object id; here is none")
        data = {key: value for key, value in told.properties.items() if value is not None}
        record = who | {"type": "event", "ts": told.time // 1000, "evtName": told.name, "evtData": data}
        return orjson.dumps(record)

    def request_of(self, parts: Sequence[bytes], config: ClevertapConfig, secret: str | None, now: Millis) -> Request:
        """``{"d": […]}``."""
        host = f"https://{config.region}.api.clevertap.com"
        url = host + "/1/upload" if config.address is None else url_of(config.address, "/1/upload")
        headers = {
            "x-clevertap-account-id": config.account,
            "x-clevertap-passcode": needed(secret, "the account's passcode"),
        }
        return post_json(url, b'{"d":[%b]}' % b",".join(parts), headers, secret=_SECRET)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and by what was not processed, where it is about one record."""
        found = classify_status(status, headers)
        refused = _refused(body)
        if found.outcome != "ok" or not refused:
            return found
        return Classified("invalid", f"CleverTap refuses this record: {refused[0].error}")

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """``unprocessed`` has the records that were refused, each as it was sent, with its error."""
        found = classify_status(status, headers)
        if found.outcome != "ok":
            return found
        errors = {orjson.dumps(each.record, option=orjson.OPT_SORT_KEYS): each.error for each in _refused(body)}
        each = []
        for part in parts:
            error = errors.get(orjson.dumps(orjson.loads(part), option=orjson.OPT_SORT_KEYS))
            wrong = Classified("invalid", f"CleverTap refuses this record: {error}")
            each.append(found if error is None else wrong)
        return each


class _Refused(NamedTuple):
    record: Any
    error: str


def _refused(body: bytes) -> list[_Refused]:
    try:
        found = orjson.loads(body)["unprocessed"]
        return [_Refused(each.get("record"), str(each.get("error"))[:300]) for each in found]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return []
