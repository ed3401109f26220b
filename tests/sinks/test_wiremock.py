"""Deliveries to WireMock: what came, in its own journal, against what was sent; the engine's own log is not asked."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from eventually import eventually
from sinks_world import World
from wiremock import WireMock, wiremock

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

HOOK = {"method": "POST", "urlPath": "/hook"}


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireMock]:
    with wiremock(tmp_path_factory.mktemp("wiremock")) as server:
        yield server


def answers(tool: WireMock, path: str, name: str, *steps: dict[str, Any], **match: Any) -> None:
    """These answers one after the other, to requests that match; the last for ever."""
    for number, step in enumerate(steps):
        state = "Started" if number == 0 else f"{name}-{number}"
        following = f"{name}-{min(number + 1, len(steps) - 1)}" if len(steps) > 1 else "Started"
        tool.stub(
            request={"method": "POST", "urlPath": path} | match,
            response=step,
            scenarioName=name,
            requiredScenarioState=state,
            newScenarioState=following,
            priority=1 if match else 5,
        )


def came(tool: WireMock, path: str) -> list[dict[str, Any]]:
    return [each for each in tool.journal() if each["request"]["url"] == path]


def taken(each: dict[str, Any]) -> bool:
    """Whether the tool took it: it answered 2xx, and no fault cut the answer."""
    response = each["responseDefinition"]
    return 200 <= response.get("status", 0) < 300 and not response.get("fault")


def check(journal: list[dict[str, Any]], sent: list[str]) -> None:
    """Each customer's events came in their order, none is missing, and what came twice is the same to the byte."""
    order: defaultdict[str, list[int]] = defaultdict(list)
    bodies: defaultdict[str, set[str]] = defaultdict(set)
    for each in journal:
        request = each["request"]
        headers = {name.lower(): value for name, value in request["headers"].items()}
        bodies[headers["webhook-id"]].add(request["body"])
        data = json.loads(request["body"])["data"]
        number = data["event"]["properties"]["n"]
        if taken(each) and number not in order[data["customer"]["id"]]:
            order[data["customer"]["id"]].append(number)
    wanted: defaultdict[str, list[int]] = defaultdict(list)
    for number, customer in enumerate(sent):
        wanted[customer].append(number)
    assert order == wanted
    assert len(bodies) == len(sent)
    assert all(len(found) == 1 for found in bodies.values())


async def test_order_loss_and_repeats_by_wiremocks_own_journal(world: World, tool: WireMock) -> None:
    """503s, lognormal delays, connections reset, answers that are no HTTP: all of it at once."""
    slow = {"status": 200, "delayDistribution": {"type": "lognormal", "median": 20, "sigma": 0.6}}
    path = f"/{world.partner}"
    down = [{"status": 503}] * 3
    cut = [{"fault": "CONNECTION_RESET_BY_PEER"}, {"fault": "MALFORMED_RESPONSE_CHUNK", "status": 500}]
    answers(tool, path, f"{world.partner}-all", *down, slow)
    answers(tool, path, f"{world.partner}-c3", *cut, slow, bodyPatterns=[{"contains": '"c3"'}])
    schedule = ",".join(["300ms"] * 20)
    world.put(settings={"url": tool.url + path, "timeout_s": 5, "retry_schedule": schedule})
    await world.engine()
    await world.send([f"c{number % 12}" for number in range(240)])

    def all_taken() -> bool:
        return len({each["request"]["body"] for each in came(tool, path) if taken(each)}) == 240

    await eventually(lambda: asyncio.to_thread(all_taken), 90, what="all 240 in the journal")
    journal = came(tool, path)
    check(journal, world.sent)
    # Those that are under way at once meet the same state of its scenario.
    assert sum(each["responseDefinition"].get("status") == 503 for each in journal) >= 3
    assert sum(bool(each["responseDefinition"].get("fault")) for each in journal) == 2


async def test_retry_after_is_kept_to(world: World, tool: WireMock) -> None:
    path = f"/{world.partner}"
    wait = {"status": 429, "headers": {"Retry-After": "2"}}
    answers(tool, path, f"{world.partner}-all", wait, {"status": 200})
    world.put(settings={"url": tool.url + path, "timeout_s": 5, "max_in_flight": 1})
    await world.engine()
    await world.send(["ann", "bob", "ann"])
    await eventually(lambda: asyncio.to_thread(lambda: len(came(tool, path)) == 4), 30, what="429, and three taken")
    journal = came(tool, path)
    check(journal, world.sent)
    assert [taken(each) for each in journal] == [False, True, True, True]
    asked, again = (each["request"]["loggedDate"] for each in journal[:2])
    assert again - asked >= 1900
