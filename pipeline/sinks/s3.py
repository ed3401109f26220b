"""S3, and what speaks like it: records as Parquet objects. Dedup key: an object's name, made of the ids in it.

A batch that is tried again is the same object. After a crash its records may be gathered otherwise, and stand in two
objects, with the same id; ``batch: 1`` makes an object of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified, Request
from pipeline.sinks.classify import classify_status
from pipeline.sinks.requests import Address, needed, url_of
from pipeline.sinks.rows import name_of, parquet_of, row_of

__all__ = ["S3Config", "S3Sink"]

_SETUP = (b"InvalidAccessKeyId", b"SignatureDoesNotMatch", b"AccessDenied", b"NoSuchBucket", b"PermanentRedirect")


class S3Config(BatchConfig):
    """``key``: the access key's id. ``endpoint``: of what is not AWS; the bucket then stands in the path."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field("", pattern=r"^(?:[A-Za-z0-9!_.*'()=-]+/)*$", max_length=500)
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]{2,30}$")
    endpoint: Address | None = None
    key: str = Field(pattern=r"^[A-Za-z0-9]{3,128}$")
    linger_ms: int = Field(5_000, ge=0, le=10_000)
    max_in_flight: int = Field(4, ge=1, le=1000)


class S3Sink(BatchSink[S3Config]):
    """Secret: the secret access key."""

    kind = "s3"
    Config = S3Config
    most = 10_000
    most_bytes = 16 << 20
    whole = True

    def part(self, dispatch: Dispatch, config: S3Config, now: Millis) -> bytes:
        """A row (`rows`)."""
        return row_of(self.told(dispatch, config))

    def request_of(self, parts: Sequence[bytes], config: S3Config, secret: str | None, now: Millis) -> Request:
        """PUT of a Parquet file, signed (AWS Signature Version 4)."""
        body = parquet_of(parts)
        name = config.prefix + name_of(parts)
        request = _signed("PUT", config, secret, now, name, body)
        shown = f"{len(parts):,} rows in {len(body):,} bytes of Parquet"
        return Request(request.method, request.url, request.headers, body, request.secret_headers, instead=shown)

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """By status, and by the code in S3's XML."""
        found = classify_status(status, headers)
        if found.outcome == "ok":
            return found
        code = body.partition(b"<Code>")[2].partition(b"</Code>")[0][:100]
        detail = f"S3 says {status} {code.decode(errors='replace')}".rstrip()
        if code in (b"SlowDown", b"RequestLimitExceeded"):
            return Classified("throttle", detail, found.retry_after)
        if code == b"RequestTimeTooSkewed":
            return Classified("transient", detail + ": this machine's clock is wrong")
        return found._replace(outcome="setup" if code in _SETUP else found.outcome, detail=detail)

    def probe(self, config: S3Config, secret: str | None, now: Millis) -> Request:
        """The bucket, at most one name of it."""
        return _signed("GET", config, secret, now, "?list-type=2&max-keys=1", b"")


def _signed(method: str, config: S3Config, secret: str | None, now: Millis, path: str, body: bytes) -> Request:
    if config.endpoint is None:
        base = f"https://{config.bucket}.s3.{config.region}.amazonaws.com"
    else:
        base = url_of(config.endpoint, f"/{config.bucket}")
    name, mark, query = path.partition("?")
    url = f"{base}/{quote(name, safe='/~-_.')}{mark}{query}"
    headers = {"x-amz-content-sha256": sha256(body).hexdigest()}
    if body:
        headers["content-type"] = "application/vnd.apache.parquet"
    unsigned = AWSRequest(method, url, headers=headers, data=body)
    unsigned.context["payload_signing_enabled"] = True
    _At(Credentials(config.key, needed(secret, "the secret access key")), "s3", config.region, now).add_auth(unsigned)
    signed = {name.lower(): value for name, value in unsigned.headers.items()}
    return Request(method, url, signed, body, frozenset({"authorization"}))


class _At(S3SigV4Auth):  # type: ignore[misc]
    """Signs as of a moment that it is told."""

    def __init__(self, credentials: Credentials, service: str, region: str, now: Millis) -> None:
        super().__init__(credentials, service, region)
        self._now = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")

    def add_auth(self, request: AWSRequest) -> None:
        """The library takes the machine's clock; a signature is of the moment that the engine gives."""
        request.context["timestamp"] = self._now
        self._modify_request_before_signing(request)
        canonical = self.canonical_request(request)
        self._inject_signature_to_request(request, self.signature(self.string_to_sign(request, canonical), request))
