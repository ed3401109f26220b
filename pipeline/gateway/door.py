"""What the connections of a gateway's process share."""

from __future__ import annotations

from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from pipeline.gateway.answers import SUCCESS, Reply
from pipeline.gateway.client import Proxies
from pipeline.gateway.heads import Heads
from pipeline.gateway.tracking import Tracking

__all__ = ["Door", "Waiting"]


class Waiting(Protocol):
    """A connection, as `Door.sweep` sees it. ``deadline``: by the loop's time; infinite where nothing is awaited."""

    deadline: float

    def expire(self) -> None: ...


class Door:
    """What the connections of a process share: the way of a call, bounds, and how many there are.

    ``calls``: requests at one time, above it 503; ``body_bytes``: of bodies that have begun to come.
    """

    def __init__(self, tracking: Tracking, proxies: Proxies, *, calls: int = 1000, body_bytes: int = 64 << 20) -> None:
        self.tracking = tracking
        self.proxies = proxies
        self.calls = calls
        self.body_bytes = body_bytes
        self.busy = 0
        self.held = 0
        self.fronts: set[Waiting] = set()
        self.heads = Heads()
        self._dated: Any = None
        self._success = b""
        self._common = b""

    def common(self, state: ServerState) -> bytes:
        """Headers that every answer has: uvicorn's, which change with the second."""
        if self._dated is not state.default_headers:
            self._dated = state.default_headers
            self._common = b"".join(b"%b: %b\r\n" % header for header in state.default_headers)
            self._success = self.written(SUCCESS, True)
        return self._common

    def success(self, state: ServerState) -> bytes:
        """The commonest answer."""
        self.common(state)
        return self._success

    def written(self, answer: Reply, keep_alive: bool) -> bytes:
        """An answer as it goes out; `common` must have been called."""
        parts = [STATUS_LINE[answer.status], self._common]
        if answer.status != 204:
            parts.append(
                b"content-type: application/json\r\ncache-control: no-store\r\ncontent-length: %d\r\n"
                % len(answer.body)
            )
        for name, value in answer.headers:
            # Latin-1 as it came in; a client's line breaks never get here, since llhttp ends a header at one.
            parts.append(f"{name}: {value}\r\n".encode("latin-1", "replace"))
        parts.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        parts.append(answer.body)
        return b"".join(parts)

    def sweep(self, now: float) -> None:
        """End what has waited too long; call it every second. ``now``: the loop's time."""
        for front in tuple(self.fronts):
            if front.deadline < now:
                front.expire()
