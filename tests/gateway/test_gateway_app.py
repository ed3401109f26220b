"""The gateway's answers, without Kafka: statuses, headers, CORS, bodies of every kind."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import orjson
import pytest
from gateway_world import COMMANDS, SECRET, Recorder, StandIn, state_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bridges.github import sign
from pipeline.gateway.app import create_app
from pipeline.gateway.scripts import SCRIPTS
from pipeline.stream.producer import BufferFull, Unavailable

PAGE = {"event": "X", "userId": "u", "writeKey": "acme.web"}


@pytest.fixture
def kafka_side() -> Recorder:
    return Recorder()


@pytest.fixture
async def http(kafka_side: Recorder) -> AsyncIterator[httpx.AsyncClient]:
    world = cast(Any, StandIn(state_of(COMMANDS), {"s-1": "old one\nnew one\n"}))
    app = create_app(world, world, cast(Any, kafka_side))
    transport = httpx.ASGITransport(app, client=("203.0.113.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        yield client


async def test_one_event_is_recorded_with_what_the_edge_knows(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    headers = {"user-agent": "Ünit".encode("latin-1"), "referer": "https://shop.example/p"}
    response = await http.post("/v1/track", json=PAGE | {"messageId": "m-é"}, headers=headers)  # type: ignore[arg-type]
    assert (response.status_code, response.json()) == (200, {"success": True})
    [(topic, record)] = kafka_side.records
    assert topic == "raw.acme.web-id"
    assert record.key == b"acme|u|u"
    assert orjson.loads(record.value or b"") == PAGE | {"messageId": "m-é", "type": "track"}
    known = dict(record.headers)
    assert known.pop("ce_time").endswith(b"Z")
    assert known == {
        "ce_specversion": b"1.0",
        "ce_id": "m-é".encode(),
        "ce_source": b"acme.web",
        "ce_type": b"headrace.raw.v1",
        "headrace_bridge": b"js",
        "headrace_ip": b"203.0.113.9",
        "headrace_ua": "Ünit".encode(),
        "headrace_origin": b"https://shop.example",
    }


@pytest.mark.parametrize(
    "kind", ["track", "t", "page", "p", "screen", "s", "identify", "i", "group", "g", "alias", "a"]
)
async def test_every_call_and_its_short_form(http: httpx.AsyncClient, kafka_side: Recorder, kind: str) -> None:
    assert (await http.post(f"/v1/{kind}", json=PAGE)).status_code == 200
    assert len(kafka_side.records) == 1


@pytest.mark.parametrize("path", ["/api/s/track", "/api/s/s2s/track", "/beacon/v1/batch", "/v1/batch"])
async def test_the_paths_of_other_clients(http: httpx.AsyncClient, kafka_side: Recorder, path: str) -> None:
    body = {"batch": [PAGE]} if path.endswith("batch") else PAGE
    assert (await http.post(f"{path}?writeKey=acme.web", json=body)).status_code == 200
    assert (await http.options(path, headers={"origin": "https://shop.example"})).status_code == 204
    assert len(kafka_side.records) == 1
    assert (await http.post(f"{path}x", json=body)).status_code == 404


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "nonsense", None])
@pytest.mark.parametrize("packed", [False, True])
async def test_the_content_type_does_not_matter(
    http: httpx.AsyncClient, kafka_side: Recorder, content_type: str | None, packed: bool
) -> None:
    body = orjson.dumps({"batch": [{"type": "page", "anonymousId": "a"}], "writeKey": "acme.web"})
    headers = {"content-type": content_type} if content_type else {}
    response = await http.post("/v1/b", content=gzip.compress(body) if packed else body, headers=headers)
    assert response.json() == {"success": True}
    assert len(kafka_side.records) == 1


async def test_a_batch_answers_for_each_bad_event(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    good, bad = {"type": "page", "userId": "u"}, {"type": "page"}
    response = await http.post("/v1/import", json={"batch": [good, bad, good], "writeKey": "acme.rest"})
    assert response.status_code == 200
    assert response.json()["success"] is False
    assert [(e["index"], e["code"], e["path"]) for e in response.json()["errors"]] == [
        (1, "no_identity", "$.batch[1].userId")
    ]
    assert len(kafka_side.records) == 2
    response = await http.post("/v1/batch", json={"batch": [bad, bad], "writeKey": "acme.rest"})
    assert (response.status_code, response.json()["code"], len(response.json()["errors"])) == (400, "no_identity", 2)
    response = await http.post("/v1/batch", json={"batch": [], "writeKey": "acme.rest"})
    assert (response.status_code, response.json()) == (200, {"success": True})
    assert len(kafka_side.records) == 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty"),
        (b"\x00\xff", 400, "not_json"),
        (b"[]", 400, "not_an_object"),
        (orjson.dumps({"event": "X", "userId": "u"}), 401, "no_key"),
        (orjson.dumps(PAGE | {"writeKey": "acme.nobody"}), 401, "unknown_source"),
        (orjson.dumps(PAGE | {"writeKey": "acme.before"}), 401, "wrong_code"),
        (orjson.dumps(PAGE | {"writeKey": "acme.off"}), 403, "inactive_source"),
        (orjson.dumps(PAGE | {"writeKey": "acme.shop"}), 403, "wrong_domain"),
        (orjson.dumps(PAGE | {"writeKey": "acme.kafka"}), 403, "wrong_bridge"),
        (orjson.dumps(PAGE | {"userId": None}), 400, "no_identity"),
        (orjson.dumps(PAGE | {"event": None}), 400, "no_event_name"),
        (orjson.dumps(PAGE | {"properties": []}), 400, "shape"),
        (orjson.dumps(PAGE | {"properties": {"x": "y" * 33_000}}), 413, "too_large"),
        (b"x" * 512_001, 413, "too_large"),
        (gzip.compress(bytes(50_000_000), mtime=0), 413, "too_large"),
        (gzip.compress(orjson.dumps(PAGE), mtime=0)[:-3], 400, "bad_gzip"),
        (b"\x1f\x8b" + b"garbage", 400, "bad_gzip"),
        (gzip.compress(orjson.dumps(PAGE), mtime=0) + gzip.compress(b"x", mtime=0), 400, "bad_gzip"),
        (zlib.compress(orjson.dumps(PAGE)), 400, "not_json"),
    ],
)
async def test_what_is_refused_is_not_recorded(
    http: httpx.AsyncClient, kafka_side: Recorder, body: bytes, status: int, code: str
) -> None:
    response = await http.post("/v1/track", content=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json()["message"]
    assert kafka_side.records == []


async def test_a_body_without_a_length_is_bounded_too(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    response = await http.post("/v1/batch", content=endless())
    assert response.status_code == 413
    assert sent < 2_000_000


async def test_an_outage_is_a_503_with_a_time_to_come_again(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    for error, code in ((BufferFull("full"), "busy"), (Unavailable("away"), "unavailable")):
        kafka_side.error = error
        response = await http.post("/v1/track", json=PAGE, headers={"origin": "https://a.example"})
        assert (response.status_code, response.json()["code"]) == (503, code)
        assert int(response.headers["retry-after"]) >= 1
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "away" not in response.text
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200


async def test_a_browser_may_ask_and_read(http: httpx.AsyncClient) -> None:
    asked = await http.options("/v1/batch", headers={"origin": "https://shop.example"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://shop.example"
    assert asked.headers["access-control-max-age"] == "3600"
    assert asked.headers["access-control-allow-credentials"] == "true"
    # What the clients that are proven in tests/clients send, and no more.
    assert set(asked.headers["access-control-allow-headers"].split(", ")) == {
        *("authorization", "content-type", "x-retry-count", "anonymousid", "sentat"),
        *("x-write-key", "x-ip-policy", "x-enable-debug"),
        *("rsa-retry-attempt", "rsa-retry-reason", "rsa-since-first-attempt", "rsa-since-last-attempt"),
    }

    body = PAGE | {"writeKey": "acme.shop"}
    ours = await http.post("/v1/t", json=body, headers={"origin": "https://shop.example"})
    assert ours.status_code == 200
    assert ours.headers["access-control-allow-origin"] == "https://shop.example"
    assert ours.headers["access-control-allow-credentials"] == "true"
    # Another page reads that it was refused, and no more: never with its cookies.
    other = await http.post("/v1/t", json=body, headers={"origin": "https://evil.example"})
    assert (other.status_code, other.json()["code"]) == (403, "wrong_domain")
    assert "access-control-allow-credentials" not in other.headers
    asked = await http.options("/v1/batch", headers={"origin": "https://evil.example"})
    assert "access-control-allow-credentials" not in asked.headers
    anybody = await http.post("/v1/t", json=PAGE, headers={"origin": "https://a.example"})
    assert "access-control-allow-credentials" not in anybody.headers
    assert all(r.headers["vary"] == "origin" for r in (asked, ours, other, anybody))
    assert "access-control-allow-origin" not in (await http.post("/v1/t", json=PAGE)).headers


async def test_the_anonymous_id_is_kept_as_a_cookie_where_page_and_gateway_are_one(http: httpx.AsyncClient) -> None:
    body = {"writeKey": "acme.web", "batch": [{"type": "page", "anonymousId": "12345-67890"}]}

    async def cookie(**headers: str) -> str:
        http.cookies.clear()
        response = await http.post("/v1/b", json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        assert response.status_code == 200
        return response.headers.get("set-cookie", "")

    made = await cookie(sec_fetch_site="same-origin")
    assert made.startswith("hr_aid=12345-67890; ")
    assert "Max-Age=31536000" in made
    assert "samesite=lax" in made.lower()
    assert await cookie(sec_fetch_site="same-origin", cookie="hr_aid=12345-67890") == made
    assert await cookie(sec_fetch_site="same-origin", cookie="hr_aid=99999-99999") == ""
    assert await cookie(sec_fetch_site="cross-site") == ""
    assert await cookie() == ""
    body["batch"][0]["anonymousId"] = "x; Domain=evil"  # type: ignore[index]
    assert await cookie(sec_fetch_site="same-origin") == ""


async def test_a_quota_that_is_reached_is_a_429_that_says_when_to_come_again(
    http: httpx.AsyncClient, kafka_side: Recorder
) -> None:
    body = PAGE | {"writeKey": "acme.few"}
    answers = [await http.post("/v1/t", json=body, headers={"origin": "https://a.example"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "quota"
    assert 0 < int(answers[2].headers["retry-after"]) <= 86_400
    assert answers[2].headers["access-control-expose-headers"] == "retry-after"
    assert len(kafka_side.records) == 2


@pytest.mark.parametrize("way", ["basic", "header", "query", "body", "header and public body"])
async def test_a_secret_key_lets_in_and_goes_no_further(
    http: httpx.AsyncClient, kafka_side: Recorder, way: str
) -> None:
    key = f"acme.safe.{SECRET}"
    body = {"event": "X", "userId": "u"}
    response = await http.post(
        f"/v1/track?writeKey={key}" if way == "query" else "/v1/track",
        json=body | ({"writeKey": key} if way == "body" else {"writeKey": "acme.safe"} if "public" in way else {}),
        headers={"x-write-key": key} if "header" in way else {},
        auth=(key, "") if way == "basic" else None,
    )
    assert response.status_code == 200
    [(_, record)] = kafka_side.records
    known = dict(record.headers)
    assert (known["headrace_key"], known["ce_source"]) == (b"server-a", b"acme.safe")
    assert SECRET.encode() not in (record.value or b"") + b"".join(known.values())


@pytest.mark.parametrize(
    ("key", "code"),
    [("acme.safe", "no_secret_key"), ("acme.safe.revoked", "wrong_secret_key"), ("acme.safe.", "wrong_secret_key")],
)
async def test_without_a_live_secret_key_it_is_refused_by_name(
    http: httpx.AsyncClient, kafka_side: Recorder, key: str, code: str
) -> None:
    response = await http.post("/v1/track", json={"event": "X", "userId": "u", "writeKey": key})
    assert (response.status_code, response.json()["code"]) == (401, code)
    assert "safe-id" in response.json()["message"]
    assert "revoked'" not in response.text
    assert kafka_side.records == []


async def test_a_signed_webhook(http: httpx.AsyncClient, kafka_side: Recorder) -> None:
    body = orjson.dumps({"action": "created", "sender": {"login": "ada"}, "repository": {"full_name": "acme/shop"}})
    headers = {"x-github-event": "star", "x-github-delivery": "0000-1111"}

    async def post(code: str, signature: str) -> httpx.Response:
        signed = headers | {"x-hub-signature-256": signature}
        return await http.post(f"/v1/webhooks/acme/{code}", content=body, headers=signed)

    for secret in (b"old one", b"new one"):
        assert (await post("gh", sign(secret, body))).json() == {"success": True}
    assert [(topic, record.key) for topic, record in kafka_side.records] == [
        ("raw.acme.gh-id", b"acme|u|github:ada")
    ] * 2
    assert dict(kafka_side.records[0][1].headers)["ce_id"] == b"0000-1111"
    assert (await post("gh", sign(b"other", body))).status_code == 401
    assert (await post("gh", "")).status_code == 401
    assert (await post("bare", sign(b"x", body))).json()["code"] == "no_secret"
    assert (await post("web", sign(b"x", body))).json()["code"] == "wrong_bridge"
    assert len(kafka_side.records) == 2


@pytest.mark.parametrize("name", SCRIPTS)
async def test_the_tracker_is_served_and_asked_for_again_cheaply(http: httpx.AsyncClient, name: str) -> None:
    first = await http.get(f"/{name}")
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["access-control-allow-origin"] == "*"
    plain = await http.get(f"/{name}", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content
    again = await http.get(f"/{name}", headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert (await http.head(f"/{name}")).status_code == 200


async def test_errors_have_one_form(http: httpx.AsyncClient) -> None:
    for response, status in (
        (await http.post("/nowhere", json={}), 404),
        (await http.post("/v1/dance", json=PAGE), 404),
        (await http.get("/v1/track"), 405),
    ):
        assert response.status_code == status
        assert set(response.json()) == {"code", "message"}


TEXT = st.text(max_size=20)
BODIES = (
    st.binary(max_size=300)
    | st.binary(max_size=100).map(gzip.compress)
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["batch", "writeKey", "type", "event", "userId", "traits", "context", "sentAt", "email"]
                ),
                inner | st.sampled_from(["acme.web", "acme.shop", "track", "😀"]),
            )
        ),
    ).map(orjson.dumps)
)


@given(
    body=BODIES,
    kind=st.sampled_from(["track", "b", "i", "webhooks/acme/gh", "webhooks/acme/bare", "webhooks/%00/%ff", "%ff"]),
    headers=st.dictionaries(
        st.sampled_from(["authorization", "x-write-key", "origin", "referer", "cookie", "x-hub-signature-256"]),
        st.binary(max_size=30).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")),
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_no_bytes_make_a_500(
    http: httpx.AsyncClient, kafka_side: Recorder, body: bytes, kind: str, headers: dict[str, bytes]
) -> None:
    kafka_side.records.clear()
    defaults = {"x-write-key": b"acme.rest"}
    response = await http.post(f"/v1/{kind}", content=body, headers=defaults | headers)  # type: ignore[arg-type]
    assert response.status_code < 500
    assert isinstance(response.json(), dict)
    if response.status_code != 200:
        assert response.json()["code"]
        assert kafka_side.records == []
