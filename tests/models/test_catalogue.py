"""The event catalogue as shipped, and what is said of a wrong one."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from pipeline.bridges.base import BridgeRequest
from pipeline.bridges.github import GitHubBridge, sign
from pipeline.events.event_types import EventTypes, property_types
from pipeline.models.catalogue import EventType, Property, catalogue
from pipeline.models.control import Source
from pipeline.models.raw import KIND_NAMES

TRACKER = Path(__file__).parents[2] / "pipeline" / "gateway" / "tracker" / "src"


def test_the_events_of_the_seeds_are_in_it() -> None:
    events = catalogue().events
    assert events["Category Viewed"].properties["category"].type == "string"
    transaction = events["Wallet Transaction"].properties
    assert {"reward", "redeem"} <= set(transaction["type"].allowed or ())
    assert {"credited", "debited"} <= set(transaction["operation"].allowed or ())
    assert not events["Wallet Coins Rewarded"].verified
    assert set(KIND_NAMES.values()) <= events.keys()


def test_types_are_given_by_event_and_property() -> None:
    assert property_types(EventTypes([], catalogue()))["Order Completed"]["total"] == "number"


def test_what_is_required_must_be_a_property() -> None:
    with pytest.raises(ValueError, match="'size' is not among"):
        EventType(title="X", description="x", required=["size"])


@pytest.mark.parametrize(("kind", "value"), [("string", 1), ("number", "1"), ("integer", True), ("boolean", 0)])
def test_allowed_values_are_of_the_propertys_type(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match="is no"):
        Property(type=kind, allowed=[value])  # type: ignore[arg-type]


def test_an_event_of_a_family_has_its_type_unless_it_has_one_of_its_own() -> None:
    assert catalogue().find("GitHub Issues Closed") is catalogue().events["GitHub *"]
    assert catalogue().find("Issue Opened") is catalogue().events["Issue Opened"]
    assert catalogue().find("GitHubber Hired") is None
    assert property_types(EventTypes([], catalogue()))["GitHub Issues Closed"]["number"] == "integer"
    assert property_types(EventTypes([], catalogue())).get("Never Heard Of") is None


def test_every_event_of_the_tracker_is_in_it() -> None:
    sent = set(re.findall(r'(?:named|identified|track)\("([A-Z][^"]+)"', (TRACKER / "tracker.ts").read_text()))
    assert {"Category Viewed", "Product Added", "Signed In"} <= sent
    assert sent <= catalogue().events.keys()


@pytest.mark.parametrize("name", ["Visit Started", "Page Viewed"])
def test_what_the_tracker_says_of_a_page_is_in_it(name: str) -> None:
    block = re.search(r"const page = \{(.*?)\};", (TRACKER / "event.ts").read_text(), re.DOTALL)
    assert block is not None
    sent = set(re.findall(r"(\w+):", block[1]))
    assert "path" in sent
    assert sent <= catalogue().events[name].properties.keys()


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("star", {"action": "created"}),
        ("star", {"action": "deleted"}),
        ("issues", {"action": "opened", "issue": {"number": 7}}),
        ("issues", {"action": "closed", "issue": {"number": 7}}),
        ("pull_request", {"action": "opened", "pull_request": {"number": 8}}),
        ("push", {"ref": "refs/heads/main", "commits": [{}, {}]}),
    ],
)
def test_what_the_github_bridge_sends_is_in_it_and_of_its_type(event: str, payload: dict[str, object]) -> None:
    shared = {"sender": {"login": "ada"}, "repository": {"full_name": "o/r"}, "organization": {"login": "o"}}
    body = orjson.dumps(shared | payload)
    headers = {
        "x-hub-signature-256": sign(b"k", body),
        "x-github-event": event,
        "x-github-delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    }
    source = Source(id="git", partner="acme", name="Git", code="git", version=1, created=0, updated=0)
    parsed = GitHubBridge().parse(BridgeRequest(kind="github", headers=headers, body=body), source, [b"k"], 0)
    raw = orjson.loads(parsed.events[0].value)
    found = catalogue().find(raw["event"])
    assert found is not None
    assert set(found.required) <= raw["properties"].keys()
    kinds = {"string": str, "integer": int}
    for name, value in raw["properties"].items():
        assert isinstance(value, kinds[found.properties[name].type]), name
