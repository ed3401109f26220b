"""What stock browser clients fetch before they send."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from gateway_world import COMMANDS, Recorder, StandIn, state_of

from pipeline.gateway.app import create_app
from pipeline.settings import Settings

ORIGIN = {"origin": "https://shop.example"}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    world = cast(Any, StandIn(state_of(COMMANDS), {}))
    transport = httpx.ASGITransport(create_app(world, world, cast(Any, Recorder())))
    async with httpx.AsyncClient(transport=transport, base_url="https://events.example:8443") as client:
        yield client


async def test_segments_settings_send_the_client_here(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/projects/acme.shop/settings", headers=ORIGIN)
    assert answer.status_code == 200
    integrations = answer.json()["integrations"]
    assert integrations == {
        "Segment.io": {"apiKey": "acme.shop", "apiHost": "events.example:8443/v1", "protocol": "https"}
    }
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["cache-control"] == "private, max-age=300"


async def test_behind_a_proxy_the_public_address_is_told() -> None:
    world = cast(Any, StandIn(state_of(COMMANDS), {}))
    settings = Settings(public_url="https://t.shop.example/events/")
    transport = httpx.ASGITransport(create_app(world, world, cast(Any, Recorder()), settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7:8080") as http:
        answer = await http.get("/v1/projects/acme.shop/settings", headers=ORIGIN)
    told = answer.json()["integrations"]["Segment.io"]
    assert (told["apiHost"], told["protocol"]) == ("t.shop.example/events/v1", "https")


@pytest.mark.parametrize("path", ["/sourceConfig/", "/sourceConfig"])
async def test_rudderstacks_config_is_by_either_key_and_has_no_destinations(http: httpx.AsyncClient, path: str) -> None:
    basic = {"authorization": "Basic " + base64.b64encode(b"acme.shop:").decode()}
    for asked in (
        await http.get(path, params={"p": "npm", "v": "3.0.0", "writeKey": "acme.shop"}, headers=ORIGIN),
        await http.get(path, headers=ORIGIN | basic),
    ):
        assert asked.status_code == 200
        source = asked.json()["source"]
        assert (source["enabled"], source["destinations"]) == (True, [])
        assert source["config"]["statsCollection"] == {"errors": {"enabled": False}, "metrics": {"enabled": False}}


@pytest.mark.parametrize("path", ["/v1/projects/{key}/settings", "/sourceConfig/?writeKey={key}"])
@pytest.mark.parametrize(
    ("key", "origin", "status", "code"),
    [
        ("acme.nobody", "https://shop.example", 401, "unknown_source"),
        ("acme.off", "https://shop.example", 403, "inactive_source"),
        ("acme.before", "https://shop.example", 401, "wrong_code"),
        ("acme.shop", "https://evil.example", 403, "wrong_domain"),
        ("acme.gh", "https://shop.example", 403, "wrong_bridge"),
    ],
)
async def test_a_refusal_is_the_events_own_and_can_be_read(
    http: httpx.AsyncClient, path: str, key: str, origin: str, status: int, code: str
) -> None:
    answer = await http.get(path.format(key=key), headers={"origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["access-control-allow-origin"] == origin
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_browser_may_ask_first(http: httpx.AsyncClient) -> None:
    wanted = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    answer = await http.options("/sourceConfig/?writeKey=acme.shop", headers=ORIGIN | wanted)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-methods"] == "GET"
    assert "authorization" in answer.headers["access-control-allow-headers"].split(", ")
