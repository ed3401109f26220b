"""What an HTTP status means for a delivery, where a tool has no rule of its own (design: delivery)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from pipeline.sinks.base import Classified

__all__ = ["MAX_RETRY_AFTER_S", "classify_status", "retry_after"]

#: A tool that asks for more is asked again after this long.
MAX_RETRY_AFTER_S = 3600.0

_SETUP = {
    401: "the tool does not accept the credentials",
    403: "the tool forbids this",
    404: "there is nothing at this address",
    410: "the endpoint is gone",
}
_TRANSIENT = {408, 421, 425}


def classify_status(status: int, headers: Mapping[str, str], now_s: float | None = None) -> Classified:
    """By status alone: 2xx ok; 429 throttle; 401, 403, 404, 410 and redirects setup; 408, 421, 425 and 5xx
    transient; other 4xx invalid. ``headers``: names in lower case. ``now_s``: seconds since 1970.
    """
    if 200 <= status < 300:
        return Classified("ok")
    if status == 429:
        wait = retry_after(headers.get("retry-after"), time.time() if now_s is None else now_s)
        return Classified("throttle", "too many requests", wait)
    if status in _SETUP:
        return Classified("setup", f"{status}: {_SETUP[status]}")
    if 300 <= status < 400:
        return Classified("setup", f"{status}: redirects are not followed; give the final address")
    if 400 <= status < 500 and status not in _TRANSIENT:
        return Classified("invalid", f"the tool refuses this record with {status}")
    return Classified("transient", f"the tool answered {status}")


def retry_after(value: str | None, now_s: float) -> float | None:
    """Seconds that ``Retry-After`` (whole seconds or an HTTP date, RFC 9110) asks for, 0 to `MAX_RETRY_AFTER_S`;
    None where there is none that can be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            # An HTTP date is in GMT, also in the old form that doesn't say so.
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(seconds - now_s, 0.0), MAX_RETRY_AFTER_S)
