"""Customer.io: events of people, in batches (Track API v2).

Dedup key: ``id`` of an event, which must be a ULID: one is made of the dedup key, so it is the same on every attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import orjson
from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, basic, get, needed, place_of, post_json, url_of

__all__ = ["CustomerioConfig", "CustomerioSink", "ulid"]

_HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
_MAX_BYTES = 32_000
#: What stands around the entries of a full batch: brackets, and a comma between each two.
_AROUND = 1_100
#: Of a ULID's time: 48 bits.
_ULID_END = 1 << 48
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_INVALID = "Customer.io refuses this record"


class CustomerioConfig(BatchConfig):
    """``site``: the site id of the Track API credentials."""

    region: Literal["us", "eu"] = "us"
    address: Address | None = None
    site: str = Field(pattern=r"^[0-9A-Za-z]{1,64}$")


class CustomerioSink(BatchSink[CustomerioConfig]):
    """Secret: the API key that belongs to the site id."""

    kind = "customerio"
    Config = CustomerioConfig
    most = 1000
    most_bytes = 500_000 - _AROUND
    rate = 100.0

    def part(self, dispatch: Dispatch, config: CustomerioConfig, now: Millis) -> bytes:
        """An entry of the batch: ``{"type": "person", "action": "event", "identifiers", "name", "id", …}``."""
        told = self.told(dispatch, config)
        if told.user_id is not None:
            who: dict[str, Any] = {"identifiers": {"id": told.user_id}}
        elif told.email is not None:
            who = {"identifiers": {"email": told.email}}
        elif told.anonymous_id is not None:
            who = {"identifiers": {"anonymous_id": told.anonymous_id}}
        else:
            raise ValueError("Customer.io knows people by user id, e-mail or anonymous id; here is none")
        attributes = dict(told.properties)
        if told.value is not None:
            attributes.setdefault("value", told.value)
        entry = {
            "type": "person",
            "action": "event",
            **who,
            "name": told.name,
            "id": ulid(told.id, told.time),
            "timestamp": told.time // 1000,
            "attributes": attributes,
        }
        made = orjson.dumps(entry)
        if len(made) > _MAX_BYTES:
            raise ValueError(f"an event has at most {_MAX_BYTES:,} bytes, this one {len(made):,}")
        return made

    def request_of(self, parts: Sequence[bytes], config: CustomerioConfig, secret: str | None, now: Millis) -> Request:
        """``{"batch": […]}``."""
        body = b'{"batch":[%b]}' % b",".join(parts)
        return post_json(self._url(config, "/api/v2/batch"), body, self._headers(config, secret))

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status: 2xx took the batch, if not all of it (`classify_each`)."""
        return classify_status(status, headers)

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """Each by ``errors[].batch_index``, whichever 2xx it is.

        An error that names no entry has each sent alone (`BatchSink`): ``id`` makes that harmless. 207 that says
        nothing readable is transient.
        """
        found = self.classify(status, headers, body)
        if found.outcome != "ok":
            return found
        errors = _errors(body)
        if errors is None:
            unread = Classified("transient", "207, but not which entries were refused")
            return unread if status == 207 else found
        each = [found] * len(parts)
        for error in errors:
            at = place_of(error, "batch_index", len(parts))
            what = _what(error)
            if at is None:
                return Classified("invalid", f"Customer.io refuses part of this request: {what}")
            each[at] = Classified("invalid", f"{_INVALID}: {what}")
        return each

    def probe(self, config: CustomerioConfig, secret: str | None, now: Millis) -> Request:
        """Whether these credentials are of this region."""
        return get(self._url(config, "/api/v1/accounts/region"), self._headers(config, secret))

    def _url(self, config: CustomerioConfig, path: str) -> str:
        return _HOSTS[config.region] + path if config.address is None else url_of(config.address, path)

    def _headers(self, config: CustomerioConfig, secret: str | None) -> dict[str, str]:
        return {"authorization": basic(config.site, needed(secret, "the API key of the Track API credentials"))}


def ulid(name: str, time: Millis) -> str:
    """26 characters: the moment, and 80 bits of a hash of ``name`` (github.com/ulid/spec).

    Raises ValueError for a moment that a ULID can't hold.
    """
    if not 0 <= time < _ULID_END:
        raise ValueError(f"{time} is no moment that Customer.io's event ids can hold: ms since 1970, 48 bits")
    number = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=10).digest(), "big")
    number |= time << 80
    return "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))


def _errors(body: bytes) -> list[Any] | None:
    """What the answer says was refused; None where that can't be read."""
    try:
        found = orjson.loads(body)["errors"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return found if isinstance(found, list) else None


def _what(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)[:300]
    return " ".join(str(error[key]) for key in ("field", "reason", "message") if error.get(key))[:300]
