"""The doors for servers: who has a key comes in, and nobody else; what they bring is recorded with the key's id."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlencode

import httpx
import orjson
import pytest
from gateway_world import COMMANDS, Recorder, StandIn, command, state_of
from twilio.request_validator import RequestValidator

from pipeline.gateway.app import create_app
from pipeline.gateway.keys import digest
from pipeline.stream.producer import Unavailable

SECRET = "s" * 32
SOURCES = [
    command("source.create", id="crm-id", name="CRM", code="crm", bridge="crm"),
    command("source.add_key", "crm-id", 1, id="k1", name="One", hash=digest(SECRET)),
    command("source.create", id="calls-id", name="Calls", code="calls", bridge="call-center", secret="s-1"),
    command("source.add_key", "calls-id", 1, id="k2", name="Two", hash=digest(SECRET)),
    command("source.add_key", "rest-id", 1, id="k3", name="Three", hash=digest(SECRET)),
]
CALL = {"call_id": "c1", "status": "ended", "direction": "inbound", "from": "+46701234567"}


@pytest.fixture
def kafka_side() -> Recorder:
    return Recorder()


@pytest.fixture
async def http(kafka_side: Recorder) -> Any:
    world = cast(Any, StandIn(state_of([*COMMANDS, *SOURCES]), {"s-1": "old-token\ntoken\n"}))
    app = create_app(world, world, cast(Any, kafka_side))
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        yield client


def bearer(code: str, secret: str = SECRET) -> dict[str, str]:
    return {"authorization": f"Bearer acme.{code}.{secret}"}


@pytest.mark.parametrize("how", ["bearer", "basic", "header"])
async def test_a_customer_comes_in_by_a_secret_key(http: Any, kafka_side: Recorder, how: str) -> None:
    key = f"acme.crm.{SECRET}"
    ways: dict[str, Any] = {
        "bearer": {"headers": {"authorization": f"bearer {key}"}},
        "basic": {"auth": (key, "")},
        "header": {"headers": {"x-write-key": key}},
    }
    response = await http.post("/v1/crm/acme/crm/customers", json={"id": "17", "phone": "+46701234567"}, **ways[how])
    assert (response.status_code, response.json()) == (200, {"success": True})
    [(topic, record)] = kafka_side.records
    headers = dict(record.headers)
    assert (topic, headers["headrace_key"], headers["headrace_bridge"]) == ("raw.acme.crm-id", b"k1", b"crm")
    assert "headrace_ip" not in headers
    assert SECRET.encode() not in b"".join([record.value or b"", *headers.values()])


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("crm/acme/crm/customers", {}, 401, "no_key"),
        ("crm/acme/crm/customers", {"authorization": "Bearer acme.crm"}, 401, "wrong_secret_key"),
        ("crm/acme/crm/customers", bearer("crm", "wrong"), 401, "wrong_secret_key"),
        ("crm/acme/crm/customers", bearer("calls"), 401, "wrong_secret_key"),
        ("crm/acme/nothing/customers", bearer("nothing"), 401, "wrong_secret_key"),
        ("crm/acme/calls/customers", bearer("calls"), 403, "wrong_bridge"),
        ("calls/acme/rest", bearer("rest"), 403, "wrong_bridge"),
        ("calls/acme/crm/twilio", {}, 403, "wrong_bridge"),
        ("calls/acme/calls/twilio", {}, 401, "bad_signature"),
    ],
)
async def test_nobody_else_comes_in(
    http: Any, kafka_side: Recorder, path: str, headers: Any, status: int, code: str
) -> None:
    response = await http.post(f"/v1/{path}", json={"id": "17"}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert SECRET not in response.text
    assert kafka_side.records == []


async def test_of_many_the_good_go_in_and_the_bad_are_named(http: Any, kafka_side: Recorder) -> None:
    response = await http.post("/v1/crm/acme/crm/customers", json=[{"id": "1"}, {}], headers=bearer("crm"))
    assert response.status_code == 200
    assert [(each["index"], each["code"], each["path"]) for each in response.json()["errors"]] == [
        (1, "no_identity", "id")
    ]
    too_large = await http.post("/v1/crm/acme/crm/customers", content=b" " * 600_000, headers=bearer("crm"))
    assert too_large.status_code == 413
    kafka_side.error = Unavailable("away")
    away = await http.post("/v1/calls/acme/calls", json=CALL, headers=bearer("calls"))
    assert (away.status_code, away.headers["retry-after"]) == (503, "5")
    assert len(kafka_side.records) == 1


async def test_twilio_comes_in_by_its_signature_and_hears_what_it_expects(http: Any, kafka_side: Recorder) -> None:
    fields = {
        "CallSid": "CA1",
        "CallStatus": "ringing",
        "From": "+46701234567",
        "To": "+46812345678",
        "Direction": "inbound",
    }
    url = "http://gateway.test/v1/calls/acme/calls/twilio?Queue=Support"
    signed = RequestValidator("token").compute_signature(url, fields)
    headers = {"x-twilio-signature": signed, "content-type": "application/x-www-form-urlencoded"}
    response = await http.post(url, content=urlencode(fields), headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert response.text.endswith("<Response/>")
    [(topic, record)] = kafka_side.records
    assert (topic, record.key) == ("raw.acme.calls-id", b"acme|p|+46701234567")
    assert orjson.loads(record.value or b"")["properties"]["queue"] == "Support"
