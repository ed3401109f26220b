"""The server's front: tracking calls are answered here, all other requests are handed to uvicorn, on one port.

A tracking call needs no task, no scope and no middleware, so it costs less than the way through ASGI
(docs/decisions/0015-gateway-server.md). llhttp, by httptools, reads every head; what is not plainly one of our calls (a
chunked body, ``Expect``, another path) goes on as it came to uvicorn, on the same connection, which comes back when
that is answered. One request of a connection is worked on at a time. A head that differs from one that was read in
nothing but the body's length is not read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from pipeline.gateway.answers import SUCCESS, Reply, reply
from pipeline.gateway.door import Door
from pipeline.gateway.heads import Peer
from pipeline.gateway.paths import CALLS
from pipeline.gateway.tracking import MAX_BODY_BYTES, Asked, Begun

__all__ = ["Front", "front_for"]

#: Bytes of a request's line and headers, and their number.
_MAX_HEAD, _MAX_HEADERS = 32 * 1024, 100
#: Seconds: for a head from its first byte, for a body, between requests, for the rest of a body that was refused.
_HEAD_S, _BODY_S, _IDLE_S, _DRAIN_S = 10.0, 30.0, 65.0, 5.0
#: Bytes of a refused body that are read, so that the client hears the answer before the connection ends.
_DRAIN_BYTES = 16 << 20
_NEVER = float("inf")

_PATHS = {path.encode(): kind for path, kind in CALLS.items()}
#: The headers that a call is judged by; others are read past. Most come in one of two spellings.
_NAMES = (
    "authorization",
    "content-length",
    "cookie",
    "expect",
    "origin",
    "referer",
    "sec-fetch-site",
    "sec-gpc",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-ip-policy",
    "x-write-key",
)
_KNOWN = {spelt.encode(): name for name in _NAMES for spelt in (name, name.title())}
#: With one of them a request is uvicorn's.
_NOT_OURS = ("transfer-encoding", "expect", "upgrade")

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1024)
def _pairs(query: bytes) -> Mapping[str, str]:
    """A query's fields, remembered: a client's is the same every time. Raises ValueError for too many of them."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100))


class Front(asyncio.Protocol):
    """One connection. Made by uvicorn's server in place of its own protocol."""

    door: Door

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._peer: Peer = (None, "http")
        self._buffer = b""
        self._parser = httptools.HttpRequestParser(self)
        self._reset()
        self._asked: Asked | None = None
        self._need = 0
        #: llhttp has had the head, and wants the body too.
        self._parsing = False
        self._held = 0
        self._draining = False
        self._begun: Begun | None = None
        self._keep = True
        self._paused = False
        self._closing = False
        self._said_all = False
        self.deadline = _NEVER

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        named = transport.get_extra_info("peername")
        secure = transport.get_extra_info("sslcontext") is not None
        self._peer = (str(named[0]) if isinstance(named, tuple) else None, "https" if secure else "http")
        self._attach()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._detach()
        self._hold(0)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._begun is None:
            self._advance()
        elif not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        # A client that has said all it will may still listen for the answer.
        self._said_all = True
        return self._begun is not None

    # llhttp's side

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count += 1
        known = _KNOWN.get(name) or _KNOWN.get(name.lower())
        if known is not None:
            self._headers.setdefault(known, value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_message_complete(self) -> None:
        self._complete = True

    # uvicorn's side

    def shutdown(self) -> None:
        """The server ends: answer what is at hand, take no more."""
        self._closing = True
        if self._begun is None and self._transport is not None:
            self._transport.close()

    def take_back(self) -> None:
        """uvicorn has answered the request that it was handed; the connection is ours again."""
        assert self._transport is not None
        self._transport.set_protocol(self)
        self._parser = httptools.HttpRequestParser(self)
        self._attach()
        if self._said_all:
            self._end()

    def expire(self) -> None:
        """The time for what we wait for is up."""
        waits = self._asked is not None or bool(self._buffer)
        if self._transport is None or self._draining or not waits:
            self._end()
        else:
            what = "body" if self._asked is not None else "request's head"
            self._refuse(408, "slow", f"the {what} took too long to arrive")

    # A request's way

    def _attach(self) -> None:
        self._state.connections.add(self)  # type: ignore[arg-type]
        self.door.fronts.add(self)
        self.deadline = self._loop.time() + _IDLE_S

    def _detach(self) -> None:
        self._state.connections.discard(self)
        self.door.fronts.discard(self)

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._count = 0
        self._headed = self._complete = False

    def _advance(self) -> None:
        """Work on what has come, until more must come, or an answer."""
        while self._begun is None and self._transport is not None and not self._transport.is_closing():
            if self._draining:
                self._drain()
                return
            if (self._asked is None and not self._head()) or (self._asked is not None and not self._body()):
                break
        if self._said_all and self._begun is None and self in self.door.fronts:
            self._end()  # what is left is no whole request, and no more will come

    def _head(self) -> bool:
        """Read a head; False when that ends our work for now. True with `_asked` set: a call whose body follows."""
        buffer = self._buffer
        if buffer[:2] == b"\r\n":  # between requests, some clients leave an empty line
            buffer = self._buffer = buffer.lstrip(b"\r\n")
        if not buffer:
            return False
        end = buffer.find(b"\r\n\r\n", 0, _MAX_HEAD) + 4
        if end == 3:
            if len(buffer) >= _MAX_HEAD:
                self._refuse(431, "too_large", f"the request's headers are larger than {_MAX_HEAD} bytes")
            elif self.deadline > self._loop.time() + _HEAD_S:
                self.deadline = self._loop.time() + _HEAD_S
            return False
        known = self.door.heads.find(buffer[:end], self._peer)
        if known is not None:
            self._buffer = buffer[end:]
            self._parsing = False
            asked, self._keep, self._need = known
            return self._expect(asked)
        self._reset()
        try:
            self._parser.feed_data(buffer[:end])
        except httptools.HttpParserUpgrade:
            self._headers.setdefault("upgrade", "")
        except httptools.HttpParserError as error:
            self._refuse(400, "bad_request", f"this is no HTTP request: {error}")
            return False
        if not self._headed:
            self._refuse(400, "bad_request", "this is no HTTP request")
            return False
        if self._count > _MAX_HEADERS:
            self._refuse(431, "too_large", f"more than {_MAX_HEADERS} headers")
            return False
        path, _, query = self._url.partition(b"?")
        kind = _PATHS.get(path)
        method = self._parser.get_method()
        headers = self._headers
        if (
            kind is None
            or method not in (b"POST", b"OPTIONS")
            or any(name in headers for name in _NOT_OURS)
            or (method == b"OPTIONS" and not self._complete)
        ):
            self._hand_over()
            return False
        self._keep = self._parser.should_keep_alive()
        self._buffer = buffer[end:]
        if method == b"OPTIONS":
            self._answer(self.door.tracking.preflight(headers.get("origin")))
            return True
        return self._ask(kind, query, buffer[:end])

    def _ask(self, kind: str, query: bytes, head: bytes) -> bool:
        headers = self._headers
        need = headers.get("content-length", "0").strip()
        # llhttp has seen to it that this is a number, and that there is one of it.
        self._need = int(need[:20]) if need.isdecimal() else -1
        peer, scheme = self._peer
        door = self.door
        if self._need < 0 or self._complete is bool(self._need):
            self._refuse(400, "bad_request", "the body's length can't be told")
            return False
        try:
            pairs = _pairs(query) if query else {}
        except ValueError:
            self._refuse(400, "bad_request", "the query has too many fields")
            return False
        forwarded = headers.get("x-forwarded-for")
        ip = door.proxies.address(peer, forwarded) if forwarded else peer
        secure = door.proxies.secure(peer, scheme, headers.get("x-forwarded-proto"))
        asked = Asked(kind, headers, pairs, ip, secure)
        door.heads.keep(head, self._peer, asked, self._keep, self._need)
        self._parsing = not self._complete
        return self._expect(asked)

    def _expect(self, asked: Asked) -> bool:
        """The head is good: a body of `_need` bytes comes next, if there is room for it."""
        door = self.door
        if self._need > MAX_BODY_BYTES:
            self._draining = True
            self._refuse(413, "too_large", f"the body is larger than {MAX_BODY_BYTES} bytes; send smaller batches")
            return False
        if door.busy >= door.calls or door.held + self._need > door.body_bytes:
            self._refuse(503, "busy", "too many requests at one time; try again", retry_after=1)
            return False
        self._asked = asked
        if len(self._buffer) < self._need:
            self._hold(self._need)
            self.deadline = self._loop.time() + _BODY_S
        return True

    def _body(self) -> bool:
        """Take the body when it is whole, and begin the call; False while it is not."""
        need = self._need
        if len(self._buffer) < need:
            return False
        body = self._buffer[:need]
        self._buffer = self._buffer[need:]
        self._hold(0)
        if self._parsing:
            try:
                self._parser.feed_data(body)
            except httptools.HttpParserError:
                self._complete = False
            if not self._complete:
                self._refuse(400, "bad_request", "the body's length can't be told")
                return False
        asked = self._asked
        assert asked is not None
        self.deadline = _NEVER
        try:
            begun = self.door.tracking.begin(asked, body)
        except Exception:
            _log.exception("a tracking call failed")
            begun = Begun(reply(500, {"code": "internal", "message": "our fault; it was logged"}))
        if begun.done is None:
            self._answer(begun.reply)
        else:
            self._begun = begun
            self.door.busy += 1
            begun.done.add_done_callback(self._outcome)
        return True

    def _outcome(self, done: asyncio.Future[None]) -> None:
        """Kafka has it, or will not: answer."""
        begun, asked = self._begun, self._asked
        assert begun is not None
        assert asked is not None
        self.door.busy -= 1
        self._begun = None
        answer = begun.reply
        error = done.exception()
        if error is not None:
            try:
                answer = self.door.tracking.outcome(asked, begun, error)
            except Exception:
                _log.exception("a tracking call failed")
                answer = reply(500, {"code": "internal", "message": "our fault; it was logged"})
        if self._transport is None:
            return
        self._answer(answer)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._advance()

    def _answer(self, answer: Reply) -> None:
        transport, state = self._transport, self._state
        if transport is None:
            return
        keep = self._keep and not self._closing and (not self._said_all or bool(self._buffer))
        if keep and answer is SUCCESS:
            transport.write(self.door.success(state))
        else:
            self.door.common(state)
            transport.write(self.door.written(answer, keep))
        state.total_requests += 1
        self._asked = None
        if keep:
            self.deadline = self._loop.time() + _IDLE_S
        else:
            self._end()

    def _refuse(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Answer and end: what follows on this connection can't be told from the rest of what was refused."""
        draining = self._draining
        self._draining = False
        self._keep = False
        self._hold(0)
        transport = self._transport
        if transport is None:
            return
        self.door.common(self._state)
        transport.write(self.door.written(reply(status, {"code": code, "message": message}, retry_after), False))
        self._asked = None
        if draining and self._need <= _DRAIN_BYTES:
            self._draining = True
            self.deadline = self._loop.time() + _DRAIN_S
            self._drain()
        else:
            self._end()

    def _drain(self) -> None:
        self._need -= len(self._buffer)
        self._buffer = b""
        if self._need <= 0:
            self._end()

    def _hold(self, size: int) -> None:
        self.door.held += size - self._held
        self._held = size

    def _end(self) -> None:
        self.deadline = _NEVER
        if self._transport is not None:
            self._transport.close()

    def _hand_over(self) -> None:
        """uvicorn reads this request from its first byte, and answers it by the ASGI application."""
        transport, buffer = self._transport, self._buffer
        assert transport is not None
        if len(self._state.tasks) >= self.door.calls:
            self._refuse(503, "busy", "too many requests at one time; try again", retry_after=1)
            return
        self._buffer = b""
        self._detach()
        inner = _Behind(self, self._config, self._state, self._app_state, self._loop)
        transport.set_protocol(inner)
        inner.connection_made(transport)
        inner.data_received(buffer)


class _Behind(HttpToolsProtocol):
    """uvicorn's own protocol, for the time of a request (or of several, where they come one on top of the other)."""

    def __init__(
        self,
        front: Front,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._front = front

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._front.connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = orjson.dumps({"code": "bad_request", "message": "this is no HTTP request"})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[400] + head + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Only between requests: when this one was read to its end, and no other has begun.
        cycle = self.cycle
        if not self.transport.is_closing() and not self.pipeline and cycle.response_complete and not cycle.more_body:
            self._unset_keepalive_if_required()
            self.connections.discard(self)
            self._front.take_back()


def front_for(door: Door) -> type[Front]:
    """The protocol class that uvicorn makes for each connection."""
    return type("Front", (Front,), {"door": door})
