"""A local receiver of webhooks that checks every signature as Standard Webhooks 1.0 says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web

__all__ = ["Received", "Receiver", "verify"]

#: Seconds that a webhook's timestamp may be off, as the specification's own libraries have it.
_TOLERANCE = 300


@dataclass(frozen=True, slots=True)
class Received:
    """One request: ``id`` is the dedup key, ``fault`` says why it was not believed (empty: it was)."""

    id: str
    name: str
    rule: str
    customer: str
    event: str
    fault: str = ""


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """What is wrong with a signature, empty when it is right. ``headers``: any mapping that ignores case.

    ``secret``: ``whsec_`` and base64. ``now``: seconds since 1970.
    """
    name, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not name or not moment.isascii() or not moment.isdigit():
        return "webhook-id or webhook-timestamp is missing"
    if abs(now - int(moment)) > _TOLERANCE:
        return f"the timestamp is {abs(now - int(moment)):.0f} s off"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    made = hmac.new(key, f"{name}.{moment}.".encode() + body, hashlib.sha256).digest()
    wanted = b"v1," + base64.b64encode(made)
    given = headers.get("webhook-signature", "").encode().split()
    if not any(hmac.compare_digest(wanted, one) for one in given):
        return "no signature is made with the secret"
    return ""


class Receiver:
    """``POST /hook`` takes webhooks (401 for a wrong signature); ``GET /received`` lists them as JSON."""

    def __init__(self) -> None:
        self.secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
        self.received: list[Received] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Serve on 127.0.0.1, a free port."""
        app = web.Application(client_max_size=4 << 20)
        app.add_routes([web.post("/hook", self._take), web.get("/received", self._show)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}/hook".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        """Close; requests in flight are cut."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        fault = verify(self.secret, request.headers, body, time.time())
        try:
            told: dict[str, Any] = json.loads(body)
            data = told["data"]
            row = Received(
                id=request.headers.get("webhook-id", ""),
                name=told["type"],
                rule=data["rule"],
                customer=data["customer"]["id"],
                event=data["event"]["id"],
                fault=fault,
            )
        except (ValueError, KeyError, TypeError) as error:
            fault = fault or f"not what Headrace sends: {error!r}"
            row = Received(request.headers.get("webhook-id", ""), "?", "?", "?", "?", fault)
        self.received.append(row)
        return web.Response(status=401 if fault else 200, text=fault)

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(row) for row in self.received])
