"""The admin API over ASGI, on the real control log."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from control_topics import make_control_topics
from pydantic import BaseModel, HttpUrl, SecretStr

from pipeline.api.app import create_app
from pipeline.control.log import ControlLog
from pipeline.control.secrets import SecretError, Secrets
from pipeline.models.catalogue import Catalogue, EventType, Property
from pipeline.models.control import Integration, Source
from pipeline.settings import Settings
from pipeline.stream.kafka import Kafka

pytestmark = pytest.mark.kafka
LEAF: dict[str, Any] = {"event": "Category Viewed", "where": [{"property": "category", "value": "Jacket"}]}
CATALOGUE = Catalogue(
    events={
        "Category Viewed": EventType(
            title="Category viewed",
            description="A category was looked at.",
            properties={"category": Property(type="string"), "price": Property(type="number")},
        )
    }
)


@dataclass
class Api:
    """The API with a partner of the test's own."""

    client: httpx.AsyncClient
    control: ControlLog
    secrets: Secrets
    partner: str
    topics: list[str] = field(default_factory=list)

    async def __call__(self, method: str, path: str, expect: int | None = None, **kwargs: Any) -> httpx.Response:
        headers = kwargs.pop("headers", {})
        if expect is not None:
            headers["If-Match"] = f'"{expect}"'
        return await self.client.request(method, f"/v1/partners/{self.partner}{path}", headers=headers, **kwargs)

    async def app_source(self, **fields: Any) -> dict[str, Any]:
        answer = await self("POST", "/sources", json={"name": "App"} | fields)
        assert answer.status_code == 201, answer.text
        return answer.json()


@pytest.fixture
async def control(kafka: Kafka) -> AsyncIterator[ControlLog]:
    await make_control_topics(kafka)
    log = ControlLog(kafka)
    await log.start()
    yield log
    await log.stop()


@pytest.fixture
async def secrets(kafka: Kafka, control: ControlLog) -> AsyncIterator[Secrets]:
    found = Secrets(kafka, [os.urandom(32)])
    await found.start()
    yield found
    await found.stop()


def client(app: Any, **kwargs: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url=kwargs.pop("base_url", "http://localhost"),
        **kwargs,
    )


@pytest.fixture
async def api(control: ControlLog, secrets: Secrets, prefix: str) -> AsyncIterator[Api]:
    topics: list[str] = []

    async def ensure(owner: Source | Integration) -> None:
        topics.append(owner.topic)

    app = create_app(control, secrets, Settings(), ensure_topics=ensure, catalogue=CATALOGUE)
    async with client(app) as http:
        made = await http.post("/v1/partners", json={"id": prefix, "name": "Acme"})
        assert made.status_code == 201, made.text
        yield Api(http, control, secrets, prefix, topics)


def said(answer: httpx.Response) -> tuple[int, str, str | None]:
    problem = answer.json()
    assert set(problem) <= {"code", "message", "path"}
    assert problem["message"]
    return answer.status_code, problem["code"], problem.get("path")


async def test_a_partner_comes_with_its_online_store_and_its_topic(api: Api) -> None:
    partner = await api("GET", "")
    assert (partner.status_code, partner.headers["etag"]) == (200, '"1"')
    (source,) = (await api("GET", "/sources")).json()["items"]
    assert (source["id"], source["name"], source["system"]) == ("online-store", "Online Store", True)
    assert source["key"] == f"{api.partner}.online-store"
    assert api.topics == [f"raw.{api.partner}.online-store"] == [source["topic"]]
    everyone = (await api.client.get("/v1/partners")).json()["items"]
    assert api.partner in [each["id"] for each in everyone]
    again = await api.client.post("/v1/partners", json={"id": api.partner, "name": "Again"})
    assert said(again) == (409, "duplicate_id", "$.id")


async def test_the_system_source_is_switched_off_and_never_removed(api: Api) -> None:
    path = "/sources/online-store"
    assert said(await api("DELETE", path, expect=1)) == (409, "system_source", None)
    assert said(await api("PATCH", path, expect=1, json={"name": "Shop"})) == (409, "system_source", "$.name")
    off = await api("PATCH", path, expect=1, json={"active": False})
    assert (off.status_code, off.json()["active"], off.headers["etag"]) == (200, False, '"2"')
    assert (await api("GET", path)).json() == off.json()


async def test_the_life_of_a_user_defined_source(api: Api) -> None:
    made = await api.app_source(name="Mobile application", channel="Mobile", bridge="rest")
    assert (made["id"], made["code"], made["version"]) == ("mobile-application",) * 2 + (1,)
    assert api.topics[-1] == f"raw.{api.partner}.mobile-application"
    path = "/sources/mobile-application"
    change = {"name": "Приложение 😀", "code": "mobile", "domain": "m.example", "description": "d"}
    edited = await api("PATCH", path, expect=1, json=change)
    assert edited.status_code == 200
    assert {**edited.json(), **change} == edited.json()
    assert said(await api("PATCH", path, expect=1, json={"code": "other"})) == (409, "stale", None)
    gone = await api("DELETE", path, expect=2)
    assert (gone.status_code, gone.json()["removed"]) == (200, True)
    assert said(await api("GET", path)) == (404, "removed", None)
    assert said(await api("DELETE", path, expect=3)) == (404, "removed", None)
    assert [s["id"] for s in (await api("GET", "/sources")).json()["items"]] == ["online-store"]
    kept = (await api("GET", "/sources", params={"removed": "true"})).json()["items"]
    assert [s["id"] for s in kept] == ["online-store", "mobile-application"]


async def test_ids_are_made_from_names_and_never_twice(api: Api) -> None:
    assert (await api.app_source(name="Kiosk"))["id"] == "kiosk"
    assert (await api.app_source(name="kiosk!"))["id"] == "kiosk-2"
    assert (await api("DELETE", "/sources/kiosk", expect=1)).status_code == 200
    assert (await api.app_source(name="KIOSK"))["id"] == "kiosk-3"
    assert (await api.app_source(name="Café"))["id"] == "cafe"
    assert (await api.app_source(name="😀"))["id"] == "source"
    assert said(await api("POST", "/sources", json={"name": "K", "id": "kiosk"})) == (409, "duplicate_id", "$.id")
    taken = await api("POST", "/sources", json={"name": "K", "code": "cafe"})
    assert said(taken) == (409, "duplicate_code", "$.code")


async def test_a_change_says_which_version_it_was_made_on(api: Api) -> None:
    for method in ("PATCH", "DELETE"):
        kwargs = {"json": {}} if method == "PATCH" else {}
        path = "/sources/online-store"
        assert said(await api(method, path, **kwargs)) == (428, "expect_missing", None)
        for bad in ("*", "one", '"1', "-1", '"1", "2"'):
            assert said(await api(method, path, headers={"If-Match": bad}, **kwargs)) == (400, "invalid", None)
    for good in ("1", '"1"', 'W/"1"'):
        answer = await api("PATCH", "/sources/online-store", headers={"If-Match": good}, json={})
        assert answer.status_code == 200


async def test_of_two_editors_one_wins(api: Api) -> None:
    edits = [api("PATCH", "/sources/online-store", expect=1, json={"description": str(n)}) for n in range(6)]
    answers = await asyncio.gather(*edits)
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5


async def test_segments(api: Api) -> None:
    body = {"name": "Jackets", "condition": {"all": [LEAF, {"not": {"event": "Ordered"}}]}}
    made = await api("POST", "/segments", json=body)
    assert made.status_code == 201
    segment = made.json()
    assert segment["condition"]["all"][1]["not"]["event"] == "Ordered"
    assert [remark["path"] for remark in segment["remarks"]] == ["$.condition.all[1].not.event"]
    path = "/segments/jackets"
    renamed = (await api("PATCH", path, expect=1, json={"name": "Coats"})).json()
    assert (renamed["since"], renamed["remarks"]) == (segment["since"], [])
    changed = (await api("PATCH", path, expect=2, json={"condition": LEAF, "archived": True})).json()
    assert changed["since"] > segment["since"]
    assert changed["condition"] == (await api("GET", path)).json()["condition"]
    assert changed["archived"] is True
    assert len((await api("GET", "/segments")).json()["items"]) == 1
    assert (await api("DELETE", path, expect=3)).status_code == 200
    assert said(await api("GET", path)) == (404, "removed", None)
    assert (await api("GET", "/segments")).json() == {"items": []}


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ({"all": [LEAF, {"nothing": 1}]}, "$.condition.all[1]"),
        ({"event": "A", "count": {"op": "~"}}, "$.condition.count.op"),
        ({"event": "A", "source": "nowhere"}, "$.condition.source"),
        ({"not": LEAF | {"where": [{"property": "price", "value": "9"}]}}, "$.condition.not.where[0].value"),
        ({"any": [{"all": [LEAF] * 150}] * 2}, "$.condition"),
    ],
)
async def test_a_bad_condition_is_refused_with_its_path(api: Api, condition: Any, path: str) -> None:
    answer = await api("POST", "/segments", json={"name": "S", "condition": condition})
    assert said(answer) == (400, "invalid", path)
    edit = await api("PATCH", "/segments/none", expect=1, json={"condition": {"all": []}})
    assert said(edit) == (400, "invalid", "$.condition.all")


async def test_integrations_and_rules(api: Api) -> None:
    rule = {"event": "Order Completed", "integration": "our-crm", "prefix": "shop "}
    assert said(await api("POST", "/rules", json=rule)) == (404, "unknown_integration", "$.integration")
    settings = {"url": "https://crm.example/hook", "options": {"none": None}}
    made = await api("POST", "/integrations", json={"name": "Our CRM", "kind": "webhook", "settings": settings})
    assert (made.status_code, made.json()["settings"]) == (201, settings)
    assert api.topics[-1] == f"dispatch.{api.partner}.our-crm"
    restrictions = [{"property": "total", "values": [1, True, 1.5, "1"]}]
    ruled = await api("POST", "/rules", json=rule | {"restrictions": restrictions})
    assert (ruled.status_code, ruled.json()["restrictions"]) == (201, restrictions)
    assert ruled.json()["id"] == "order-completed"
    assert said(await api("DELETE", "/integrations/our-crm", expect=1)) == (409, "in_use", None)
    off = await api("PATCH", "/rules/order-completed", expect=1, json={"enabled": False})
    assert off.json()["enabled"] is False
    replaced = await api("PATCH", "/integrations/our-crm", expect=1, json={"settings": {"x": None}})
    assert replaced.json()["settings"] == {"x": None}
    assert (await api("GET", "/rules/order-completed")).json() == off.json()
    assert len((await api("GET", "/rules")).json()["items"]) == 1
    assert (await api("DELETE", "/rules/order-completed", expect=2)).status_code == 200
    assert (await api("DELETE", "/integrations/our-crm", expect=2)).status_code == 200
    assert (await api("GET", "/integrations")).json() == {"items": []}


async def test_secrets_are_never_in_the_log_nor_in_an_answer(
    api: Api, kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    values = [f"whsec-{uuid.uuid4().hex}" for _ in range(4)]
    answers = []

    async def send(method: str, path: str, expect: int | None = None, **body: Any) -> httpx.Response:
        answers.append(await api(method, path, expect=expect, json=body))
        return answers[-1]

    made = await send("POST", "/sources", name="Git", bridge="webhook-github", secret=values[0])
    first = made.json()["secret"]
    assert api.secrets.get(first) == values[0]
    second = (await send("PATCH", "/sources/git", 1, secret=values[1])).json()["secret"]
    assert api.secrets.get(second) == values[1]
    with pytest.raises(SecretError, match="erased"):
        api.secrets.get(first)
    kept = len(api.secrets._sealed)
    assert (await send("PATCH", "/sources/git", 1, secret=values[2])).status_code == 409
    assert len(api.secrets._sealed) == kept, "a refused change leaves no secret behind"
    assert api.secrets.get(second) == values[1]
    hook = await send("POST", "/integrations", name="Hook", kind="webhook", secret=values[3])
    assert api.secrets.get(hook.json()["secret"]) == values[3]
    assert (await send("PATCH", "/sources/git", 2, secret=values[1], surprise=1)).status_code == 400
    answers.append(await api("GET", "/sources"))
    answers.append(await api("GET", "/integrations"))
    await api("DELETE", "/sources/git", expect=2)
    with pytest.raises(SecretError, match="erased"):
        api.secrets.get(second)

    log = b""
    async with kafka.consumer("control") as consumer:
        (partition,) = consumer.assignment()
        while await consumer.position(partition) <= api.control.state.offset:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                log += b"".join((record.key or b"") + (record.value or b"") for record in batch)
    assert first.encode() in log
    for value in values:
        assert value.encode() not in log
        assert not [answer.text for answer in answers if value in answer.text]
        assert value not in caplog.text


async def test_a_repeat_with_the_same_key_gets_the_first_answer(api: Api) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"name": "App", "secret": "one-secret"}
    first = await api("POST", "/sources", headers=dict(key), json=body)
    await api("PATCH", "/sources/app", expect=1, json={"secret": "another"})
    live = api.control.state.sources[api.partner, "app"].secret
    kept = len(api.secrets._sealed)
    again = await api("POST", "/sources", headers=dict(key), json=body)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len((await api("GET", "/sources")).json()["items"]) == 2
    assert live is not None
    assert api.secrets.get(live) == "another"
    assert len(api.secrets._sealed) == kept
    short = await api("POST", "/sources", headers={"Idempotency-Key": "x"}, json=body)
    assert said(short) == (400, "invalid", None)


async def test_the_audit_trail_says_who(api: Api, kafka: Kafka) -> None:
    await api("PATCH", "", expect=1, json={"sending": True}, headers={"X-Actor": "alice"})
    async with kafka.consumer("control") as consumer:
        (partition,) = consumer.assignment()
        consumer.seek(partition, api.control.state.offset)
        record = await consumer.getone()
    assert json.loads(record.value)["by"] == "alice"
    assert record.key == api.partner.encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (400, "invalid", "$")),
        (b"{", (400, "malformed", "$")),
        (b"\xff\xfe", (400, "malformed", "$")),
        (b"[]", (400, "invalid", "$")),
        (b"[" * 100_000, (400, "malformed", None)),
        (b'{"name": "\xf0\x9f\x98\x80", "code": "\xf0\x9f\x98\x80"}', (400, "invalid", "$.code")),
        (b'{"name": "\\ud800"}', (400, "invalid", "$.name")),
        (b'{"name": ""}', (400, "invalid", "$.name")),
        (b'{"name": 5}', (400, "invalid", "$.name")),
        (b'{"name": "N", "colour": 1}', (400, "invalid", "$.colour")),
        (b'{"name": "N", "domain": "https://shop.example"}', (400, "invalid", "$.domain")),
        (b'{"name": "N", "secret": ""}', (400, "invalid", "$.secret")),
        (b'{"name": "' + b"x" * 1_000_000 + b'"}', (413, "too_large", None)),
    ],
)
async def test_hostile_bodies_get_a_clear_error(api: Api, content: bytes, expected: tuple[int, str, str]) -> None:
    answer = await api("POST", "/sources", content=content, headers={"Content-Type": "application/json"})
    assert said(answer) == expected


async def test_deep_json_is_refused_and_harms_nothing(api: Api) -> None:
    for depth in (30, 300, 900):
        condition = '{"not":' * depth + json.dumps(LEAF) + "}" * depth
        answer = await api(
            "POST",
            "/segments",
            content='{"name":"S","condition":' + condition + "}",
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 400, (depth, answer.text)
        nested = "[" * depth + "]" * depth
        answer = await api(
            "POST",
            "/integrations",
            content='{"name":"I","kind":"webhook","settings":{"x":' + nested + "}}",
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == (201 if depth < 100 else 400), (depth, answer.text)


@pytest.mark.parametrize("path", ["/nowhere", "/sources/nothing", "/sources/%F0%9F%98%80", "/sources/a%00b"])
async def test_what_is_not_there(api: Api, path: str) -> None:
    assert (await api("GET", path)).status_code == 404
    if path != "/nowhere":
        assert said(await api("PATCH", path, expect=1, json={}))[0] == 404
        assert said(await api("DELETE", path, expect=1))[0] == 404
    said(await api("GET", path))


async def test_unknown_partners_and_methods(api: Api) -> None:
    for noun in ("sources", "segments", "integrations", "rules"):
        answer = await api.client.get(f"/v1/partners/nobody-{api.partner}/{noun}")
        assert said(answer) == (404, "unknown_partner", None)
    answer = await api.client.post("/v1/partners/NOBODY/sources", json={"name": "S"})
    assert said(answer)[0] == 404
    assert said(await api("DELETE", "")) == (405, "method_not_allowed", None)


async def test_a_page_elsewhere_cannot_post(api: Api) -> None:
    simple = {"Content-Type": "text/plain"}  # what a form may send without asking first
    answer = await api("POST", "/sources", content=b'{"name": "Evil"}', headers=simple)
    assert answer.status_code == 400
    rebound = await api.client.get(f"http://evil.example/v1/partners/{api.partner}")
    assert said(rebound) == (403, "foreign_host", None)


async def test_a_token_is_asked_for_where_one_is_set(control: ControlLog, secrets: Secrets) -> None:
    settings = Settings(host="0.0.0.0", api_token=SecretStr("sésame"))
    async with client(create_app(control, secrets, settings), base_url="http://headrace.example") as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            answer = await http.get("/v1/partners", headers=headers)
            assert said(answer) == (401, "unauthorized", None)
            assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer sésame".encode()}
        assert (await http.get("/v1/partners", headers=right)).status_code == 200
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "headrace.example"])
async def test_off_loopback_a_token_is_needed(control: ControlLog, secrets: Secrets, host: str) -> None:
    with pytest.raises(ValueError, match="HEADRACE_API_TOKEN"):
        create_app(control, secrets, Settings(host=host))


async def test_a_tool_and_its_settings_are_checked(control: ControlLog, secrets: Secrets, prefix: str) -> None:
    class Hook(BaseModel):
        url: HttpUrl

    app = create_app(control, secrets, Settings(), tools={"webhook": Hook})
    async with client(app, headers={"If-Match": "1"}) as http:
        await http.post("/v1/partners", json={"id": prefix, "name": "Acme"})
        path = f"/v1/partners/{prefix}/integrations"
        tool = {"id": "crm", "name": "CRM", "kind": "webhook", "settings": {"url": "https://crm.example"}}
        assert said(await http.post(path, json=tool | {"kind": "pigeon"})) == (400, "invalid", "$.kind")
        bad = {"settings": {"url": "nonsense"}}
        assert said(await http.post(path, json=tool | bad)) == (400, "invalid", "$.settings.url")
        assert said(await http.patch(f"{path}/crm", json=bad)) == (404, "unknown_integration", None)
        assert (await http.post(path, json=tool)).status_code == 201
        assert said(await http.patch(f"{path}/crm", json=bad)) == (400, "invalid", "$.settings.url")
        assert (await http.get(f"{path}/crm")).json()["settings"] == tool["settings"]


async def test_topics_that_cannot_be_made_are_told(control: ControlLog, secrets: Secrets, prefix: str) -> None:
    async def broken(_: object) -> None:
        raise RuntimeError("too many partitions")

    async with client(create_app(control, secrets, Settings(), ensure_topics=broken)) as http:
        answer = await http.post("/v1/partners", json={"id": prefix, "name": "Acme"})
    assert said(answer) == (503, "topics_missing", None)
    assert "too many partitions" in answer.text
    assert "headrace topics apply" in answer.text


async def test_no_verdict_in_time_says_how_to_learn_it(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(*_: object) -> None:
        raise TimeoutError

    key = {"Idempotency-Key": uuid.uuid4().hex}
    with monkeypatch.context() as patched:
        patched.setattr(api.control, "submit", late)
        answer = await api("POST", "/sources", headers=dict(key), json={"name": "App"})
    assert said(answer) == (504, "unknown_outcome", None)
    assert key["Idempotency-Key"] in answer.text


async def test_readiness_ends_with_following(api: Api) -> None:
    ready = await api.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["offset"] == api.control.state.offset
    api.control.failure.set_exception(RuntimeError("gone"))
    api.control.failure.exception()
    assert (await api.client.get("/readyz")).status_code == 503
    assert (await api.client.get("/healthz")).status_code == 200


TRIP = {"title": "Trip booked", "description": "A trip.", "properties": {"seats": {"type": "integer"}}}


async def test_event_types_are_a_partners_own_and_segments_are_checked_against_them(api: Api) -> None:
    made = await api("POST", "/event-types", json={"event": "Trip Booked", "type": TRIP})
    assert (made.status_code, made.json()["id"], made.headers["etag"]) == (201, "trip-booked", '"1"')
    again = await api("POST", "/event-types", json={"event": "Trip Booked", "type": TRIP})
    assert said(again) == (409, "duplicate_event", "$.event")
    wrong = await api("POST", "/event-types", json={"event": "X", "type": TRIP | {"required": ["none"]}})
    assert wrong.status_code == 400
    segment = {"name": "S", "condition": {"event": "Trip Booked", "where": [{"property": "seats", "value": "two"}]}}
    refused = await api("POST", "/segments", json=segment)
    assert said(refused) == (400, "invalid", "$.condition.where[0].value")
    segment["condition"]["where"] = [{"property": "@.country", "value": "LV"}]  # type: ignore[index]
    assert (await api("POST", "/segments", json=segment)).json()["remarks"] == []
    edited = await api("PATCH", "/event-types/trip-booked", 1, json={"type": TRIP | {"title": "Booked"}})
    assert (edited.status_code, edited.json()["type"]["title"]) == (200, "Booked")
    assert said(await api("PATCH", "/event-types/trip-booked", 1, json={"type": TRIP}))[1] == "stale"
    listed = (await api("GET", "/event-types?catalogue=true")).json()
    assert [each["event"] for each in listed["items"]] == ["Trip Booked"]
    assert list(listed["catalogue"]) == ["Category Viewed"]
    assert (await api("DELETE", "/event-types/trip-booked", 2)).status_code == 200
    assert said(await api("GET", "/event-types/trip-booked")) == (404, "removed", None)


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        ({"mapping": {"events": [{"event": "$.a..b"}]}}, "$.policy.mapping.events[0].event"),
        ({"accepts": "payload", "payload": {"type": "objekt"}}, "$.policy.payload.type"),
        ({"accepts": "payload", "payload": {"$ref": "http://127.0.0.1:9/x"}}, "$.policy.payload"),
        ({"accepts": "payload"}, "$.policy"),
    ],
)
async def test_a_policy_that_intake_could_not_read_is_refused_when_it_is_saved(
    api: Api, policy: dict[str, Any], path: str
) -> None:
    made = await api("POST", "/sources", json={"name": "Till", "policy": policy})
    assert said(made) == (400, "invalid", path)
    source = await api.app_source()
    edited = await api("PATCH", f"/sources/{source['id']}", 1, json={"policy": policy})
    assert said(edited) == (400, "invalid", path)
