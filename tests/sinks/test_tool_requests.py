"""Each tool's request: where it goes, with what credentials, what it says, its dedup key; and vendors' own clients."""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import parse_qs, parse_qsl

import hubspot
import orjson
import pytest
from hubspot.events.send import BatchedBehavioralEventHttpCompletionRequest
from slack_sdk.webhook import WebhookClient
from tool_world import NOW, asked, dispatch, vendor
from twilio.rest import Client as TwilioClient

from pipeline.sinks.base import BatchSink, Request, SetupError
from pipeline.sinks.customerio import ulid
from pipeline.sinks.registry import SINKS, sink

ACCOUNT, KEY = "AC" + "0" * 32, "SK" + "1" * 32
TEXT = "Hello {$.customer.traits.first_name}, order {$.event.properties.order_id} is here"
#: Kind -> settings, secret: enough of each to send.
SETUPS: dict[str, tuple[dict[str, Any], str]] = {
    "webhook": ({"url": "https://shop.example/hook"}, "whsec_" + base64.b64encode(b"x" * 32).decode()),
    "klaviyo": ({}, "pk_1"),
    "customerio": ({"site": "site1"}, "cio-key"),
    "braze": ({"address": "https://rest.iad-01.braze.com"}, "braze-key"),
    "hubspot": ({"event": "pe123_order_completed"}, "pat-token"),
    "ga4": ({"measurement": "G-ABC123"}, "ga-secret"),
    "meta": ({"pixel": "1234567890"}, "meta-token"),
    "mailchimp": ({"audience": "abcdef0123"}, "0123456789abcdef-us21"),
    "omnisend": ({}, "omni-key"),
    "clevertap": ({"account": "TEST-1"}, "clever-key"),
    "moengage": ({"app": "APP_123456"}, "moe-key"),
    "webengage": ({"licence": "~12345"}, "we-key"),
    "interakt": ({}, "aW50ZXJha3Q="),
    "gupshup": ({"source": "4930999", "app": "shop", "template": "c1b2a3d4-0000", "parameters": [TEXT]}, "gs-key"),
    "slack": ({"text": TEXT}, "https://hooks.slack.com/services/T0/B0/secret"),
    "twilio": ({"account": ACCOUNT, "from": "+15005550006", "text": TEXT}, "token"),
}


def made(kind: str, told: Any = None, secret: str | None = None, **settings: Any) -> tuple[Request, Any]:
    """The request, and its body: JSON, or a form's fields."""
    defaults, known = SETUPS[kind]
    request = asked(kind, defaults | settings, secret or known, told)
    if request.headers["content-type"] == "application/x-www-form-urlencoded":
        return request, dict(parse_qsl(request.body.decode()))
    return request, orjson.loads(request.body)


HTTP = [kind for kind in SINKS if kind in SETUPS]


@pytest.mark.parametrize("kind", HTTP)
def test_no_log_shows_what_is_secret(kind: str) -> None:
    request, _ = made(kind)
    shown = str(request.shown())
    secret = SETUPS[kind][1]
    for part in (secret, secret.rpartition("/")[2], base64.b64encode(secret.encode()).decode()):
        assert part not in shown
    assert secret not in request.body.decode()


@pytest.mark.parametrize("kind", HTTP)
def test_a_repeat_is_the_same_request(kind: str) -> None:
    """A tool that compares bodies must see one event, whenever it is told of it, and at whichever attempt."""
    defaults, secret = SETUPS[kind]
    tool = sink(kind)
    config = tool.config(defaults)
    first, later = (
        tool.request(dispatch(attempt=attempt), config, secret, NOW + attempt * 60_000) for attempt in (0, 3)
    )
    assert isinstance(first, Request)
    assert isinstance(later, Request)
    assert (first.method, first.url, first.body) == (later.method, later.url, later.body)


@pytest.mark.parametrize("kind", [kind for kind in HTTP if kind not in ("webhook",)])
def test_without_its_secret_a_tool_says_which_it_wants(kind: str) -> None:
    with pytest.raises(SetupError, match="secret"):
        asked(kind, SETUPS[kind][0], None)


@pytest.mark.parametrize("kind", [kind for kind in HTTP if kind not in ("webhook", "slack", "ga4", "mailchimp")])
def test_somebody_whom_the_tool_can_not_know_is_refused(kind: str) -> None:
    known = {"user_id": None, "anonymous_id": None, "email": None, "phone": None, "traits": {}}
    nobody = dispatch(customer=known, event={"ip": None, "context": {}})
    if kind == "moengage":
        nobody = dispatch(customer={"id": "", "user_id": None, "anonymous_id": None, "email": None, "phone": None})
    with pytest.raises(ValueError, match=r"none|no phone|no e-mail"):
        asked(kind, *SETUPS[kind], nobody)


@pytest.mark.parametrize("kind", [kind for kind in HTTP if isinstance(SINKS[kind], BatchSink)])
def test_a_batch_holds_each_record_once_in_order(kind: str) -> None:
    settings, secret = SETUPS[kind]
    tool = sink(kind)
    assert isinstance(tool, BatchSink)
    config = tool.config(settings | ({"batch": 10} if kind == "klaviyo" else {}))
    parts = [tool.part(dispatch(id=f"{n:032}", event={"properties": {"n": f"mark{n}"}}), config, NOW) for n in range(3)]
    request = tool.request_of(parts, config, secret, NOW)
    assert isinstance(request, Request)
    body = request.body.decode()
    assert [body.count(f"mark{n}") for n in range(3)] == [1, 1, 1]
    assert body.index("mark0") < body.index("mark1") < body.index("mark2")
    orjson.loads(body)


def test_customerio() -> None:
    request, body = made("customerio")
    assert request.url == "https://track.customer.io/api/v2/batch"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"site1:cio-key").decode()
    [entry] = body["batch"]
    assert entry["identifiers"] == {"id": "7"}
    assert (entry["type"], entry["action"], entry["name"], entry["timestamp"]) == (
        "person",
        "event",
        "Order Completed",
        1_700_000_000,
    )
    assert entry["id"] == ulid(dispatch().id, 1_700_000_000_123)
    assert made("customerio", region="eu")[0].url.startswith("https://track-eu.customer.io/")


def test_a_ulid_begins_with_its_moment() -> None:
    """As github.com/ulid/spec: 01ARZ3NDEK is 1469922850259."""
    assert ulid("x", 1469922850259).startswith("01ARZ3NDEK")
    assert len(ulid("x", 0)) == 26
    assert ulid("x", 1) != ulid("y", 1)


def test_braze() -> None:
    request, body = made("braze")
    assert (request.url, request.headers["authorization"]) == (
        "https://rest.iad-01.braze.com/users/track",
        "Bearer braze-key",
    )
    [event] = body["events"]
    assert event == {
        "external_id": "7",
        "name": "Order Completed",
        "time": "2023-11-14T22:13:20.123Z",
        "properties": dispatch().event["properties"],
    }
    nobody = {"user_id": None, "email": None, "phone": None}
    [event] = made("braze", dispatch(customer=nobody))[1]["events"]
    assert event["user_alias"] == {"alias_name": "a1", "alias_label": "anonymous_id"}
    [event] = made("braze", dispatch(customer={"user_id": None}), selector="phone")[1]["events"]
    assert event["phone"] == "+49301234567"


def test_hubspot_is_what_its_own_client_sends() -> None:
    with vendor(204, b"") as (address, calls):
        request, body = made("hubspot", address=address)
        client = hubspot.Client.create(access_token="pat-token")
        api = client.events.send.batch_api
        api.api_client.configuration.host = address
        api.send(BatchedBehavioralEventHttpCompletionRequest(inputs=body["inputs"]))
    [theirs] = calls
    assert (theirs.method, address + theirs.path) == (request.method, request.url)
    assert theirs.headers["authorization"] == request.headers["authorization"]
    assert orjson.loads(theirs.body) == body
    [event] = body["inputs"]
    assert (event["eventName"], event["email"]) == ("pe123_order_completed", "Ada@Shop.example")
    assert event["properties"]["total"] == "99.5"


def test_ga4() -> None:
    request, body = made("ga4")
    assert request.url.startswith("https://www.google-analytics.com/mp/collect?measurement_id=G-ABC123&api_secret=")
    assert (body["client_id"], body["user_id"], body["timestamp_micros"]) == ("a1", "7", 1_700_000_000_123_000)
    [event] = body["events"]
    assert event["name"] == "order_completed"
    assert event["params"]["value"] == 99.5
    assert "items" not in event["params"]
    with pytest.raises(ValueError, match="3 days"):
        made("ga4", dispatch(event={"time": NOW - 3 * 86_400_000 - 1}))
    with pytest.raises(ValueError, match="event name"):
        made("ga4", dispatch(name="7 Kühe"))


def test_meta_hashes_who_it_is_as_meta_says() -> None:
    request, body = made("meta")
    assert request.url == "https://graph.facebook.com/v23.0/1234567890/events"
    [event] = body["data"]
    assert (event["event_id"], event["event_name"]) == (dispatch().id, "Order Completed")
    assert (event["action_source"], event["event_source_url"]) == ("website", "https://shop.example/thanks")
    user = event["user_data"]
    assert user["em"] == [hashlib.sha256(b"ada@shop.example").hexdigest()]
    assert user["ph"] == [hashlib.sha256(b"49301234567").hexdigest()]
    assert user["external_id"] == [hashlib.sha256(b"7").hexdigest()]
    assert (user["client_user_agent"], user["client_ip_address"]) == ("Mozilla/5.0", "203.0.113.9")
    assert "ada" not in request.body.decode().lower()
    with pytest.raises(ValueError, match="week"):
        made("meta", dispatch(event={"time": NOW - 7 * 86_400_000}))


def test_mailchimp() -> None:
    request, body = made("mailchimp")
    member = hashlib.md5(b"ada@shop.example").hexdigest()
    assert request.url == f"https://us21.api.mailchimp.com/3.0/lists/abcdef0123/members/{member}/events"
    assert body["name"] == "order_completed"
    assert body["properties"]["items"] == '[{"sku":"a"}]'
    request, body = made("mailchimp", mode="members", merge={"FNAME": "{$.customer.traits.first_name}"})
    assert (request.method, request.url.endswith(member)) == ("PUT", True)
    assert body == {
        "email_address": "Ada@Shop.example",
        "status_if_new": "transactional",
        "merge_fields": {"FNAME": "Ada"},
    }
    with pytest.raises(SetupError, match="data centre"):
        made("mailchimp", secret="0123456789abcdef")


def test_omnisend() -> None:
    request, body = made("omnisend")
    assert (request.url, request.headers["x-api-key"]) == ("https://api.omnisend.com/v5/events", "omni-key")
    assert body["contact"]["email"] == "Ada@Shop.example"
    assert body["eventID"] == made("omnisend")[1]["eventID"]
    assert body["eventID"] != made("omnisend", dispatch(id="other"))[1]["eventID"]


def test_clevertap_moengage_and_webengage() -> None:
    request, body = made("clevertap")
    assert request.url == "https://in1.api.clevertap.com/1/upload"
    assert request.headers["x-clevertap-passcode"] == "clever-key"
    assert body["d"][0] | {"evtData": 0} == {
        "type": "event",
        "identity": "7",
        "ts": 1_700_000_000,
        "evtName": "Order Completed",
        "evtData": 0,
    }
    request, body = made("moengage", centre=2)
    assert request.url == "https://api-02.moengage.com/v1/event/APP_123456"
    assert (body["customer_id"], body["actions"][0]["action"]) == ("7", "Order Completed")
    request, body = made("webengage", region="in")
    assert request.url == "https://api.in.webengage.com/v1/accounts/~12345/events"
    assert (body["userId"], body["eventTime"]) == ("7", "2023-11-14T22:13:20+0000")


def test_interakt_and_gupshup() -> None:
    request, body = made("interakt")
    assert (request.url, body["userId"]) == ("https://api.interakt.ai/v1/public/track/events/", "7")
    request, body = made("interakt", template="order_here", values=[TEXT])
    assert request.url == "https://api.interakt.ai/v1/public/message/"
    assert (body["countryCode"], body["phoneNumber"], body["callbackData"]) == ("+49", "301234567", dispatch().id)
    assert body["template"]["bodyValues"] == ["Hello Ada, order o7 is here"]
    request, form = made("gupshup")
    assert (form["destination"], form["source"], form["src.name"]) == ("49301234567", "4930999", "shop")
    assert orjson.loads(form["template"]) == {"id": "c1b2a3d4-0000", "params": ["Hello Ada, order o7 is here"]}


def test_slack_is_what_its_own_client_sends_and_nobodys_text_calls_people() -> None:
    told = dispatch(customer={"traits": {"first_name": "<!channel> & co"}})
    with vendor(200, b"ok") as (address, calls):
        request, body = made("slack", told, secret=address + "/services/T0/B0/x")
        WebhookClient(request.url).send(text=body["text"])
    [theirs] = calls
    assert (theirs.method, address + theirs.path) == (request.method, request.url)
    assert orjson.loads(theirs.body) == body
    assert body["text"] == "Hello &lt;!channel&gt; &amp; co, order o7 is here"
    assert made("slack", dispatch(test=True))[1]["text"].startswith("[Test] ")
    with pytest.raises(SetupError, match="address"):
        made("slack", secret="xoxb-123")


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"text": TEXT}, {"from_": "+15005550006", "body": "Hello Ada, order o7 is here"}),
        (
            {"text": TEXT, "from": "MG" + "2" * 32},
            {"messaging_service_sid": "MG" + "2" * 32, "body": "Hello Ada, order o7 is here"},
        ),
        (
            {"text": None, "content": "HX" + "3" * 32, "variables": {"1": "{$.event.properties.order_id}"}},
            {"from_": "+15005550006", "content_sid": "HX" + "3" * 32, "content_variables": '{"1":"o7"}'},
        ),
    ],
)
@pytest.mark.parametrize("channel", ["sms", "whatsapp"])
def test_twilio_is_what_its_own_client_sends(settings: dict[str, Any], theirs: dict[str, Any], channel: str) -> None:
    prefix = "whatsapp:" if channel == "whatsapp" else ""
    if "from_" in theirs:
        theirs = theirs | {"from_": prefix + theirs["from_"]}
    with vendor(201, b"{}") as (address, calls):
        request, form = made("twilio", address=address, channel=channel, **settings)
        client = TwilioClient(ACCOUNT, "token")
        client.api.base_url = address
        client.messages.create(to=prefix + "+49301234567", **theirs)
    [call] = calls
    assert (call.method, address + call.path) == (request.method, request.url)
    assert call.headers["authorization"] == request.headers["authorization"]
    assert {key: value[0] for key, value in parse_qs(call.body.decode()).items()} == form


def test_twilio_takes_an_api_key_in_the_accounts_place() -> None:
    request, _ = made("twilio", key=KEY)
    assert request.headers["authorization"] == "Basic " + base64.b64encode(f"{KEY}:token".encode()).decode()


@pytest.mark.parametrize("kind", [kind for kind in HTTP if SINKS[kind].probe.__func__ is not BatchSink.probe])  # type: ignore[attr-defined]
def test_a_probe_tells_of_nobody_and_shows_no_secret(kind: str) -> None:
    settings, secret = SETUPS[kind]
    tool = sink(kind)
    probe = tool.probe(tool.config(settings), secret, NOW)
    assert isinstance(probe, Request)
    assert (probe.method, probe.body) == ("GET", b"")
    assert secret not in str(probe.shown())
