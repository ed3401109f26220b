"""A bound on bodies, before anything parses them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.api.errors import ApiError

__all__ = ["MAX_BODY", "BodyLimit"]

MAX_BODY = 1_000_000


class BodyLimit:
    """Answers 413 to a body of more than `MAX_BODY` bytes, whatever its headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise ApiError(413, "too_large", f"the body is larger than {MAX_BODY:,} bytes")
            return message

        await self._app(scope, bounded, send)
