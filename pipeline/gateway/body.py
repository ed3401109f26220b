"""A request's body, whole and within bounds, whatever it claims to be."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import Request

from pipeline.bridges.base import Refused

__all__ = ["gunzip", "read_body"]

_GZIP = b"\x1f\x8b"


async def read_body(request: Request, limit: int, timeout_s: float = 30.0) -> bytes:
    """The bytes as sent. Raises `Refused`: 413 above ``limit`` bytes, 408 when they take too long."""
    claimed = request.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed[:20]) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
    except TimeoutError:
        raise Refused(408, "slow", f"the body did not arrive within {timeout_s:g} s") from None
    return b"".join(parts)


def gunzip(body: bytes, limit: int) -> bytes:
    """The body unpacked if it is gzip, by its first bytes: a server library sends it under any content type.

    Raises `Refused`: 413 when more than ``limit`` bytes come out (no more are made), 400 when it is broken.
    """
    if not body.startswith(_GZIP):
        return body
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(400, "bad_gzip", f"the body is no valid gzip: {error}") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not unpack.eof or unpack.unused_data:
        raise Refused(400, "bad_gzip", "the body must be one whole gzip stream")
    return plain


def _too_large(limit: int) -> Refused:
    return Refused(413, "too_large", f"the body is larger than {limit} bytes; send smaller batches")
