"""What stock browser clients fetch before they send: Segment's project settings, RudderStack's source config.

They tell a client that its events come here and go nowhere else: no destinations, no plugins, no metrics of theirs.
Source: `@segment/analytics-next` (``/v1/projects/<key>/settings``), `@rudderstack/analytics-js` (``/sourceConfig/``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pipeline.gateway.admission import admit, given_key
from pipeline.gateway.answers import answer, answer_all, let_read, preflight
from pipeline.gateway.origin import origin_of
from pipeline.gateway.parts import Parts
from pipeline.models.control import Source

__all__ = ["routes"]

#: Browsers ask at every page, so they keep the answer for a while. It says nothing that a switched-off source needs
#: to take back: its events are refused all the same.
_KEPT = "private, max-age=300"

#: From the gateway's own address and the source.
Tell = Callable[[str, Source], dict[str, Any]]


def routes(parts: Parts) -> Sequence[BaseRoute]:
    """``GET /v1/projects/{key}/settings`` and ``GET /sourceConfig``, with or without the slash that is sent."""
    methods = ["GET", "OPTIONS"]
    return [
        Route("/v1/projects/{key}/settings", _Loader(parts, segment_settings).respond, methods=methods),
        Route("/sourceConfig", _Loader(parts, rudder_config).respond, methods=methods),
        Route("/sourceConfig/", _Loader(parts, rudder_config).respond, methods=methods),
    ]


class _Loader:
    """Admits the key as the events' own doors do, and tells what its client wants to know."""

    def __init__(self, parts: Parts, tell: Tell) -> None:
        self._control = parts.control
        self._public = parts.settings.public_url
        self._tell = tell

    async def respond(self, request: Request) -> Response:
        """The settings; refusals as for events, so that the page's console says what is wrong."""
        state = self._control.state
        if request.method == "OPTIONS":
            return preflight(request.headers.get("origin"), state, "GET").response()
        source: Source | None = None

        async def handle() -> Response:
            nonlocal source
            key = request.path_params.get("key") or given_key(request.headers, request.query_params, {})
            source = admit(state, key, origin_of(request.headers)).source
            address = self._public or f"{request.url.scheme}://{request.url.netloc}"
            response = answer(200, self._tell(address, source))
            response.headers["cache-control"] = _KEPT
            return response

        return let_read(request, await answer_all(handle), source)


def segment_settings(address: str, source: Source) -> dict[str, Any]:
    """For `@segment/analytics-next` and its snippet: events go to ``address``, where this was asked."""
    scheme, _, host = address.rstrip("/").partition("://")
    sent_to = {"apiKey": source.key, "apiHost": f"{host}/v1", "protocol": scheme}
    return {
        "integrations": {"Segment.io": sent_to},
        "plan": {"track": {}, "identify": {}, "group": {}},
        "edgeFunction": {},
        "analyticsNextEnabled": True,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": False,
        "remotePlugins": [],
    }


def rudder_config(address: str, source: Source) -> dict[str, Any]:
    """For `@rudderstack/analytics-js`: an enabled source without destinations, errors and metrics not collected."""
    quiet = {"errors": {"enabled": False}, "metrics": {"enabled": False}}
    return {
        "source": {
            "id": source.id,
            "name": source.name,
            "writeKey": source.key,
            "workspaceId": source.partner,
            "enabled": True,
            "config": {"statsCollection": quiet},
            "connections": [],
            "destinations": [],
            "dataplanes": {},
        }
    }
