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
from pipeline.sinks.requests import Address, basic, get, needed, post_json, url_of

__all__ = ["CustomerioConfig", "CustomerioSink", "ulid"]

_HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
_MAX_BYTES = 32_000
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
    most_bytes = 500_000
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
        """By status; 207 says in ``errors`` which it did not take."""
        if status == 207:
            return Classified("ok")
        return classify_status(status, headers)

    def classify_each(
        self, status: int, headers: Mapping[str, str], body: bytes, parts: Sequence[bytes]
    ) -> Classified | list[Classified]:
        """With 207, each by ``errors[].batch_index``."""
        if status != 207:
            return self.classify(status, headers, body)
        found = [Classified("ok")] * len(parts)
        for error in orjson.loads(body)["errors"]:
            at = error.get("batch_index")
            if isinstance(at, int) and 0 <= at < len(parts):
                what = " ".join(str(error[key]) for key in ("field", "reason", "message") if error.get(key))[:300]
                found[at] = Classified("invalid", f"{_INVALID}: {what}")
        return found

    def probe(self, config: CustomerioConfig, secret: str | None, now: Millis) -> Request:
        """Whether these credentials are of this region."""
        return get(self._url(config, "/api/v1/accounts/region"), self._headers(config, secret))

    def _url(self, config: CustomerioConfig, path: str) -> str:
        return _HOSTS[config.region] + path if config.address is None else url_of(config.address, path)

    def _headers(self, config: CustomerioConfig, secret: str | None) -> dict[str, str]:
        return {"authorization": basic(config.site, needed(secret, "the API key of the Track API credentials"))}


def ulid(name: str, time: Millis) -> str:
    """26 characters: the moment, and 80 bits of a hash of ``name`` (github.com/ulid/spec)."""
    number = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=10).digest(), "big")
    number |= max(0, time) << 80
    return "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
