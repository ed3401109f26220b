"""The tracker's built files, served with an ETag so that browsers ask again cheaply."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.gateway.parts import Parts

__all__ = ["SCRIPTS", "Script", "routes"]

SCRIPTS = ("tracker.min.js", "tracker.page.min.js")
_STATIC = Path(__file__).with_name("static")


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """Each script under its name."""
    return [Route(f"/{name}", Script(name).respond, methods=["GET"]) for name in SCRIPTS]


class Script:
    """One file, read once. Its address has no version in it, so it is kept for five minutes only."""

    def __init__(self, name: str) -> None:
        self._plain = (_STATIC / name).read_bytes()
        self._packed = gzip.compress(self._plain, mtime=0)
        self._etag = f'"{hashlib.sha256(self._plain).hexdigest()[:20]}"'

    async def respond(self, request: Request) -> Response:
        """``GET`` and ``HEAD``; 304 for a browser that has it."""
        headers = {
            "etag": self._etag,
            "cache-control": "public, max-age=300, stale-while-revalidate=86400",
            "vary": "accept-encoding",
            "access-control-allow-origin": "*",
            "cross-origin-resource-policy": "cross-origin",
            "x-content-type-options": "nosniff",
        }
        known = request.headers.get("if-none-match", "")
        if self._etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        body = self._plain
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            body = self._packed
        return Response(body, headers=headers, media_type="text/javascript; charset=utf-8")
