"""The page that a request comes from."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

__all__ = ["origin_of"]


def origin_of(headers: Mapping[str, str]) -> str | None:
    """The page's origin (``https://shop.example:8443``) by Origin, else by Referer; None outside of a page."""
    origin = headers.get("origin")
    if origin:
        return origin[:300]
    referer = headers.get("referer")
    if not referer:
        return None
    try:
        page = urlsplit(referer)
        port = f":{page.port}" if page.port else ""
    except ValueError:
        return "null"
    return f"{page.scheme}://{page.hostname or ''}{port}"[:300]
