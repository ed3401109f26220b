"""What tools are told, beside what Segment's own destinations (npm, as they are) send of the same event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from clients.npm_modules import run_node, wanted_modules
from tool_world import asked, dispatch

from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import Request, iso

pytestmark = pytest.mark.faults

ROOM = Path(__file__).parent / "destinations"
#: The customer's own are given to both; an anonymous one is known by its anonymous id alone.
WHO = {"anonymous": {"user_id": None, "email": None, "phone": None, "traits": {}}}
RECORDS = {
    "an order": dispatch(),
    "no properties": dispatch(name="Signed In", event={"properties": {}}),
    "text of all kinds": dispatch(
        name="Größe ändern", event={"properties": {"note": "\N{PARTY POPPER} \u2028 </script>"}}
    ),
    "a day ago": dispatch(event={"time": 1_699_913_600_001, "properties": {"n": 1}}),
    "anonymous": dispatch(customer=WHO["anonymous"], event={"properties": {"n": 1}}),
}


@pytest.fixture(scope="module")
def segment() -> Path:
    """The folder with Segment's packages."""
    try:
        return wanted_modules(ROOM)
    except RuntimeError as error:
        pytest.skip(f"MISSING: Segment's destinations; npm says: {error}")


def as_segment(told: Dispatch) -> dict[str, Any]:
    """The event as Segment has it."""
    customer, event = told.customer, told.event
    traits = {"email": customer["email"], "phone": "+49301234567" if customer["phone"] else None}
    traits |= {"firstName": customer["traits"].get("first_name"), "lastName": customer["traits"].get("last_name")}
    context = {"ip": event["ip"], **event["context"], "traits": {k: v for k, v in traits.items() if v is not None}}
    made = {"type": "track", "event": told.name, "userId": customer["user_id"], "anonymousId": customer["anonymous_id"]}
    made |= {"messageId": told.id, "timestamp": iso(event["time"]), "receivedAt": iso(event["time"])}
    made |= {"seconds": event["time"] // 1000, "properties": event["properties"], "context": context}
    return {name: value for name, value in made.items() if value is not None}


def at(path: str) -> dict[str, str]:
    return {"@path": f"$.{path}"}


async def both(
    kind: str, settings: dict[str, Any], names: list[str], destination: dict[str, Any]
) -> list[tuple[Request, dict[str, Any]]]:
    """Ours and theirs, of each of these records."""
    cases = [destination | {"event": as_segment(RECORDS[name])} for name in names]
    made = (await run_node("segment.js", {"cases": cases}, room=ROOM))["made"]
    assert [len(each) for each in made] == [1] * len(names)
    return [
        (asked(kind, settings, "secret", RECORDS[name]), theirs) for name, [theirs] in zip(names, made, strict=True)
    ]


def bodies(pair: tuple[Request, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return orjson.loads(pair[0].body), orjson.loads(pair[1]["body"])


KNOWN = [name for name in RECORDS if name != "anonymous"]


@pytest.mark.usefixtures("segment")
async def test_klaviyo() -> None:
    profile = {"email": at("context.traits.email"), "phone_number": at("context.traits.phone")}
    profile |= {"first_name": at("context.traits.firstName"), "last_name": at("context.traits.lastName")}
    mapping = {"profile": profile | {"external_id": at("userId")}, "value": at("properties.total")}
    theirs = {"destination": "klaviyo", "action": "trackEvent", "settings": {"api_key": "secret"}, "mapping": mapping}
    for pair in await both("klaviyo", {}, KNOWN, theirs):
        assert pair[0].url == pair[1]["url"].rstrip("/")
        assert pair[0].headers["authorization"] == pair[1]["headers"]["authorization"]
        our, their = bodies(pair)
        # Theirs leaves the currency out.
        our["data"]["attributes"].pop("value_currency", None)
        assert our == their


@pytest.mark.usefixtures("segment")
async def test_braze() -> None:
    settings = {"api_key": "secret", "app_id": "app", "endpoint": "https://rest.iad-01.braze.com"}
    alias = {"alias_name": at("anonymousId"), "alias_label": "anonymous_id"}
    for names, who in ((KNOWN, {"email": None}), (["anonymous"], {"user_alias": alias})):
        theirs = {"destination": "braze", "action": "trackEvent", "settings": settings, "mapping": who}
        for pair in await both("braze", {"address": settings["endpoint"], "app": "app"}, names, theirs):
            assert (pair[0].url, pair[0].headers["authorization"]) == (
                pair[1]["url"],
                pair[1]["headers"]["authorization"],
            )
            [our], [their] = (body["events"] for body in bodies(pair))
            # Theirs says the default; ours where there is nobody yet, and leaves no properties out.
            assert their.pop("_update_existing_only") is our.pop("_update_existing_only", False)
            assert our == their


@pytest.mark.usefixtures("segment")
async def test_customerio() -> None:
    settings = {"siteId": "site", "apiKey": "secret", "accountRegion": "US"}
    theirs = {"destination": "customerio", "action": "trackEvent", "settings": settings, "mapping": {}}
    for pair in await both("customerio", {"site": "site"}, list(RECORDS), theirs):
        assert pair[0].headers["authorization"] == pair[1]["headers"]["authorization"]
        assert pair[0].url.rpartition("/")[0] == pair[1]["url"].rpartition("/")[0]
        our, their = bodies(pair)
        [our] = our["batch"]
        # A dedup key must be a ULID: theirs is taken as none. What an order is worth ours adds; theirs the visitor.
        assert (len(our.pop("id")), their.pop("id")) == (26, RECORDS["an order"].id)
        our["attributes"].pop("value", None)
        their["attributes"].pop("anonymous_id", None)
        assert our == their


@pytest.mark.usefixtures("segment")
async def test_meta() -> None:
    mapping = {"action_source": "website", "event_name": at("event"), "event_time": at("seconds")}
    mapping |= {"custom_data": at("properties")}
    theirs = {
        "destination": "facebook-conversions-api",
        "action": "custom",
        "settings": {"pixelId": "123456"},
        "mapping": mapping,
    }
    for pair in await both("meta", {"pixel": "123456"}, list(RECORDS), theirs):
        assert pair[0].url.split("/")[-2:] == pair[1]["url"].split("/")[-2:]
        [our], [their] = (body["data"] for body in bodies(pair))
        their["event_time"] = int(their["event_time"])
        # One or a list of them is the same to Meta.
        users = [
            {name: value if isinstance(value, list) else [value] for name, value in each.pop("user_data").items()}
            for each in (our, their)
        ]
        assert users[0] == users[1]
        our["custom_data"].pop("value", None)
        assert our == their


@pytest.mark.usefixtures("segment")
async def test_ga4() -> None:
    # Of a list theirs makes an error, ours leaves it out.
    names = [name for name in RECORDS if name not in ("an order", "text of all kinds")]
    mapping = {"clientId": at("anonymousId"), "user_id": at("userId"), "params": at("properties")}
    settings = {"measurementId": "G-ABCDEFG", "apiSecret": "secret"}
    theirs = {"destination": "google-analytics-4", "action": "customEvent", "settings": settings, "mapping": mapping}
    for pair in await both("ga4", {"measurement": "G-ABCDEFG"}, names, theirs):
        assert sorted(pair[0].url.partition("?")[2].split("&")) == sorted(pair[1]["url"].partition("?")[2].split("&"))
        our, their = bodies(pair)
        [event] = their["events"]
        event["name"] = event["name"].lower()
        assert our == their
