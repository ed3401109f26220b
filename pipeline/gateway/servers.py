"""Doors for other systems' servers, who come with a secret key: customers of a CRM, calls of a call centre.

A server passes ``<partner-id>.<code>.<secret>`` as a bearer token, as the Basic user name or in X-Write-Key; the
address names the source. Twilio has no such key: it signs with its own token, the source's secret.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.bridges.base import Bridge, BridgeRequest, Parsed, RawOut, Refused
from pipeline.control.reducer import ControlState
from pipeline.gateway.admission import admit_server, given_key
from pipeline.gateway.answers import answer_all, batch_answer
from pipeline.gateway.body import gunzip, read_body
from pipeline.gateway.client import Client, public_url
from pipeline.gateway.keys import key_of, split_key
from pipeline.gateway.parts import Parts
from pipeline.gateway.publish import publish
from pipeline.gateway.signing import signing_secrets
from pipeline.models.control import Source, SourceKey

__all__ = ["MAX_BODY_BYTES", "TEST_HEADER", "Servers", "admit_with_key", "routes"]

#: Of a request, unpacked.
MAX_BODY_BYTES = 500 * 1024

#: ``1``: what the request brings is a test (`headrace sources verify`).
TEST_HEADER = "x-headrace-test"


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``/v1/crm/<partner>/<code>/customers`` and ``/v1/calls/<partner>/<code>``, Twilio's below it."""
    servers = Servers(parts)
    return [
        Route("/v1/crm/{partner}/{code}/customers", servers.customers, methods=["POST"]),
        Route("/v1/calls/{partner}/{code}", servers.calls, methods=["POST"]),
        Route("/v1/calls/{partner}/{code}/twilio", servers.twilio, methods=["POST"]),
    ]


def admit_with_key(
    state: ControlState, where: Mapping[str, str], headers: Mapping[str, str], bridge: str
) -> tuple[Source, Bridge, SourceKey]:
    """The source of an address, for who has one of its secret keys. Raises `Refused`.

    The key is judged before all else: who has none learns nothing of the source, not even whether it is there.
    """
    given = headers.get("authorization", "")
    text = given[7:].strip() if given[:7].lower() == "bearer " else given_key(headers, {}, {})
    public, secret = split_key(text)
    wanted = f"{where['partner']}.{where['code']}"
    source = state.source_by_key(wanted)
    key = key_of(source, secret) if source is not None and public == wanted else None
    if key is None:
        raise Refused(
            401,
            "wrong_secret_key",
            f"this address wants a secret key of its source: `{wanted[:120]}.<secret>`, as a bearer token; a key may "
            "have been revoked, or the source have another code now",
        )
    source, found = admit_server(state, where["partner"], where["code"], bridge)
    return source, found, key


def _marked(events: Sequence[RawOut]) -> list[RawOut]:
    """As test events, which pass every stage and count nowhere: these doors' bodies have no context to say so in."""
    marked = []
    for key, value, name in events:
        event = orjson.loads(value)
        event["context"] = {**(event.get("context") or {}), "test": True}
        marked.append(RawOut(key, orjson.dumps(event), name))
    return marked


class Servers:
    """Admits, parses by the source's bridge, records, answers. 200: the broker has every good event."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def customers(self, request: Request) -> Response:
        """``POST /v1/crm/{partner}/{code}/customers``: a customer, or an array of them."""
        return await answer_all(lambda: self._keyed(request, "crm", "customers"))

    async def calls(self, request: Request) -> Response:
        """``POST /v1/calls/{partner}/{code}``: a moment of a call, or an array of them."""
        return await answer_all(lambda: self._keyed(request, "call-center", "calls"))

    async def twilio(self, request: Request) -> Response:
        """``POST /v1/calls/{partner}/{code}/twilio``: a callback that Twilio has signed."""

        async def handle() -> Response:
            where = request.path_params
            source, bridge = admit_server(self._parts.control.state, where["partner"], where["code"], "call-center")
            body = await read_body(request, MAX_BODY_BYTES)
            asked = BridgeRequest("twilio", request.headers, body, url=public_url(request, self._parts.settings))
            return await self._record(
                request, source, bridge, asked, signing_secrets(self._parts.secrets, source), None
            )

        return await answer_all(handle)

    async def _keyed(self, request: Request, name: str, kind: str) -> Response:
        state = self._parts.control.state
        source, bridge, key = admit_with_key(state, request.path_params, request.headers, name)
        body = gunzip(await read_body(request, MAX_BODY_BYTES), MAX_BODY_BYTES)
        return await self._record(request, source, bridge, BridgeRequest(kind, request.headers, body), (), key.id)

    async def _record(
        self,
        request: Request,
        source: Source,
        bridge: Bridge,
        asked: BridgeRequest,
        secrets: Sequence[bytes],
        key: str | None,
    ) -> Response:
        received = int(time.time() * 1000)
        parsed: Parsed = bridge.parse(asked, source, secrets, received)
        # A server's page is nobody's, and its address is not the customer's.
        client = Client.of(request, source)._replace(ip=None, origin=None, key=key)
        events = _marked(parsed.events) if request.headers.get(TEST_HEADER) == "1" else parsed.events
        self._parts.limits.take(source, len(events), received / 1000)
        await publish(self._parts.producer, source, events, client, received)
        special = parsed.answer
        if special is None or parsed.faults:
            return batch_answer(len(parsed.events), parsed.faults)
        return Response(special.body, special.status, dict(special.headers), special.media_type)
