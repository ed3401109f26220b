"""What the tests of tools are written with: a record to tell of, and a receiver that a vendor's own client may call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request
from pipeline.sinks.registry import sink

__all__ = ["NOW", "Call", "asked", "dispatch", "vendor"]

#: A moment to send at, a minute after what happened.
NOW = 1_700_000_060_000


def dispatch(**changes: Any) -> Dispatch:
    """An order of Ada's, in the Online Store."""
    event: dict[str, Any] = {
        "id": "m1",
        "partner": "acme",
        "source": "online-store",
        "channel": "Web",
        "type": "track",
        "name": "Order Completed",
        "time": 1_700_000_000_123,
        "received": 1_700_000_000_500,
        "ip": "203.0.113.9",
        "context": {"userAgent": "Mozilla/5.0", "page": {"url": "https://shop.example/thanks"}},
        "properties": {"order_id": "o7", "total": 99.5, "currency": "EUR", "items": [{"sku": "a"}], "gift": False},
    }
    customer: dict[str, Any] = {
        "id": "acme|u|7",
        "user_id": "7",
        "anonymous_id": "a1",
        "email": "Ada@Shop.example",
        "phone": "+49 30 1234567",
        "traits": {"first_name": "Ada", "last_name": "Lovelace", "plan": "gold"},
    }
    base: dict[str, Any] = {
        "id": "0123456789abcdef0123456789abcdef",
        "partner": "acme",
        "integration": "tool",
        "rule": "r",
        "name": "Order Completed",
        "created": 1_700_000_000_600,
        "event": event | changes.pop("event", {}),
        "customer": customer | changes.pop("customer", {}),
    }
    return Dispatch.model_validate(base | changes)


def asked(kind: str, settings: dict[str, Any], secret: str | None, told: Dispatch | None = None) -> Request:
    """The request that a tool makes of a record."""
    tool = sink(kind)
    made = tool.request(told or dispatch(), tool.config(settings), secret, NOW)
    assert isinstance(made, Request)
    return made


class Call(NamedTuple):
    """A request as it came; ``headers``: names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def vendor(status: int = 200, answer: bytes = b"{}") -> Iterator[tuple[str, list[Call]]]:
    """A server on this machine in a vendor's place: its address, and what it was asked."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            calls.append(Call(self.command, self.path, headers, self.rfile.read(length)))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET = do_PUT = _take

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
