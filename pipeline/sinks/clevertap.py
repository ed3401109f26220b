"""CleverTap: events of profiles, in batches (``/1/upload``). No dedup key: what is told twice counts twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
#: Of the codes of records: "miscellaneous server error".
_SERVER_ERROR = 555


class ClevertapConfig(BatchConfig):
    """``account``: its id. ``region``: as in the dashboard's address (``in1``, ``us1``, ``sg1`` …)."""

    account: str = Field(pattern=r"^[A-Z0-9-]{4,40}$")
    region: str = Field("in1", pattern=r"^[a-z]{2,4}\d$")
    address: Address | None = None
    # CleverTap takes 15 requests of an account at one time, and answers more with 429.
    max_in_flight: int = Field(15, ge=1, le=15)


class ClevertapSink(BatchSink[ClevertapConfig]):
    """Secret: the account's passcode."""

    kind = "clevertap"
    Config = ClevertapConfig
    # CleverTap takes 1000. Its answer repeats every record that it refuses, and must fit into what is read of one.
    most = 100
    most_bytes = 32_000

    def part(self, dispatch: Dispatch, config: ClevertapConfig, now: Millis) -> bytes:
        """``{"type": "event", "identity" | "objectId", "ts", "evtName", "evtData"}``."""
        told = self.told(dispatch, config)
        if not 0 < len(told.name) <= _MAX_NAME:
            raise ValueError(f"an event's name has 1 to {_MAX_NAME} characters")
        identity = told.known_as(config.selector)
        if identity is not None:
            who = {"identity": identity}
        elif told.anonymous_id is not None:
            who = {"objectId": told.anonymous_id}
        else:
            raise ValueError("CleverTap knows profiles by an identity or an object id; here is none")
        data = {key: _value(told.name, key, value) for key, value in told.properties.items() if value is not None}
        return orjson.dumps(
            who | {"type": "event", "ts": told.time // 1000, "evtName": told.name, "evtData": data},
        )

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
        """By status, and of 2xx by what was not processed: the answer to one record."""
        found = classify_status(status, headers)
        if found.outcome != "ok":
            return found
        answer = _read(body)
        if answer is None:
            return _UNREADABLE
        if answer.refused:
            return answer.refused[0].means()
        return _NOTHING_TAKEN if answer.failed else found

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """``unprocessed`` has the records that were refused, as they were sent, each with its error.

        One that is none of ours has each sent alone where nothing was processed; else the others count as taken.
        """
        found = self.classify(status, headers, body)
        answer = _read(body)
        if len(parts) == 1 or not 200 <= status < 300:
            return found
        if answer is None:
            # Not one `Classified` for all: each would be sent again, and what was taken would count twice.
            return [_UNREADABLE] * len(parts)
        sent = [orjson.loads(part) for part in parts]
        results: dict[int, Classified] = {}
        strangers = 0
        for refused in answer.refused:
            place = _place(refused.record, sent, results)
            if place is None:
                strangers += 1
            else:
                results[place] = refused.means()
        if answer.failed and len(results) < len(parts):
            return _NOTHING_TAKEN
        taken = Classified("ok", f"CleverTap refused {strangers} of these, and not clearly which" if strangers else "")
        return [results.get(at, taken) for at in range(len(parts))]


_UNREADABLE = Classified("invalid", "CleverTap's answer can't be read; it may have taken it, and is not told again")
_NOTHING_TAKEN = Classified("invalid", "CleverTap took nothing of the request")


class _Refused(NamedTuple):
    record: Any
    code: Any
    error: str

    def means(self) -> Classified:
        if self.code == _SERVER_ERROR:
            return Classified("transient", f"CleverTap: {self.error}")
        return Classified("invalid", f"CleverTap refuses this record: {self.error}")


class _Answer(NamedTuple):
    failed: bool
    refused: list[_Refused]


def _read(body: bytes) -> _Answer | None:
    """None for what is no answer of CleverTap's."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or answer.get("status") not in ("success", "partial", "fail"):
        return None
    entries = answer.get("unprocessed")
    found = [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
    refused = [_Refused(each.get("record"), each.get("code"), str(each.get("error"))[:300]) for each in found]
    return _Answer(answer["status"] == "fail", refused)


def _place(record: Any, sent: Sequence[Any], but: Mapping[int, Any]) -> int | None:
    """Whose refusal it is: the same record, else the same event of the same profile."""
    likenesses: tuple[Callable[[Any], Any], ...] = (lambda each: each, _whose)
    for likeness in likenesses:
        wanted = likeness(record)
        place = next((at for at, each in enumerate(sent) if at not in but and likeness(each) == wanted), None)
        if place is not None:
            return place
    return None


def _whose(record: Any) -> tuple[Any, ...]:
    known = record if isinstance(record, dict) else {}
    return known.get("identity"), known.get("objectId"), known.get("evtName")


def _value(event: str, key: str, value: Any) -> Any:
    """A property's value is a scalar; only a charge has a list, of its items."""
    if isinstance(value, dict | list) and (event, key) != ("Charged", "Items"):
        return orjson.dumps(value).decode()
    return value
