"""What most tools' requests are made of: JSON with credentials, a secret that must be there, text from templates."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, HttpUrl, StringConstraints

from pipeline.events.mapping import MappingError, compile_expression
from pipeline.models import phone as number
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request, SetupError
from pipeline.sinks.told import document_of

__all__ = [
    "Address",
    "Template",
    "basic",
    "e164",
    "fill",
    "get",
    "needed",
    "parameter",
    "place_of",
    "post_json",
    "said",
    "url_of",
]

_AGENT = "headrace"
_SECRET_HEADERS = frozenset({"authorization"})


def _plain(value: HttpUrl) -> HttpUrl:
    if value.username or value.password or value.query or value.fragment:
        raise ValueError("write scheme, host and path alone; settings are shown, so no credentials stand in them")
    return value


def _readable(value: str) -> str:
    try:
        compile_expression(value, "$")
    except MappingError as error:
        raise ValueError(str(error)) from None
    return value


#: Where a tool is called: the vendor's own by default, another for a proxy.
Address = Annotated[HttpUrl, AfterValidator(_plain)]
#: Text with expressions in it (`models.mapping`): ``{$.customer.traits.first_name}``.
Template = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_readable)]


def fill(template: str, dispatch: Dispatch) -> str:
    """The text for ``dispatch``; what is missing is empty. Raises ValueError for what has no text."""
    found = _compiled(template)(document_of(dispatch), {})
    return "" if found is None else found if isinstance(found, str) else orjson.dumps(found).decode()


def parameter(template: str, dispatch: Dispatch, which: str) -> str:
    """The value of a parameter of a WhatsApp template: spaces and line ends in a row become one space.

    Meta refuses others, and empty ones, long after the tool has said yes. Raises ValueError, naming ``which``, for an
    empty one. Source: Meta's error 132018, Twilio's 21656.
    """
    text = " ".join(fill(template, dispatch).split())
    if not text:
        raise ValueError(f"{which} of the message template is empty for this record, which WhatsApp refuses")
    return text


@lru_cache(2048)
def _compiled(template: str) -> Any:
    return compile_expression(template, "$")


def needed(secret: str | None, what: str) -> str:
    """The secret, without spaces around it. Raises SetupError where there is none that a header can carry."""
    found = (secret or "").strip()
    if not found or not found.isascii() or any(ord(c) < 33 or ord(c) == 127 for c in found):
        raise SetupError(f"give the integration its secret: {what}")
    return found


def url_of(base: HttpUrl, path: str) -> str:
    """``path`` below an address, whether that ends with a slash or not."""
    return str(base).rstrip("/") + path


def post_json(
    url: str,
    body: Any,
    headers: Mapping[str, str] | None = None,
    *,
    secret: frozenset[str] = _SECRET_HEADERS,
    method: str = "POST",
    kind: str = "application/json",
) -> Request:
    """``body`` as JSON, or as the bytes that it is. ``secret``: headers (lower case) that hold credentials.

    Raises TypeError for what JSON can't hold.
    """
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    known = {"content-type": kind, "user-agent": _AGENT} | dict(headers or {})
    return Request(method, url, known, content, secret)


def get(url: str, headers: Mapping[str, str], *, secret: frozenset[str] = _SECRET_HEADERS) -> Request:
    """A question: for probes."""
    return Request("GET", url, {"user-agent": _AGENT} | dict(headers), b"", secret)


def basic(user: str, password: str) -> str:
    """The header of HTTP Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def said(body: bytes, *path: str | int) -> str:
    """What stands in a JSON answer at ``path``, cut at 300 characters; empty where nothing does."""
    try:
        found = orjson.loads(body)
        for step in path:
            found = found[step]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""
    return str(found)[:300]


def place_of(error: Any, key: str, many: int) -> int | None:
    """Which of ``many`` records an entry of a batch's errors names by ``error[key]``; None where it names none."""
    at = error.get(key) if isinstance(error, dict) else None
    # JSON's true is an int to Python.
    return at if type(at) is int and 0 <= at < many else None


def e164(phone: str | None) -> str | None:
    """The number where it is one with its country code, ``+4930123456``; None: nothing is guessed."""
    return None if phone is None else number.e164(phone)
