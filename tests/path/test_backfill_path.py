"""A segment that comes after its events: it counts them all, whoever they are by now, while more come."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from eventually import eventually
from stack import Stack, produce
from test_main_path import counted, read


def viewed(number: int, who: dict[str, str], category: str = "Jacket") -> dict[str, Any]:
    """A page view."""
    event = {"type": "track", "event": "Category Viewed", "messageId": f"v{number}"}
    return event | {"properties": {"category": category, "n": number}} | who


OFTEN = {
    "event": "Category Viewed",
    "where": [{"property": "category", "op": "equals", "value": "Jacket"}],
    "count": {"op": ">=", "value": 3},
    "window": {"rolling": "30d"},
}
NEVER = {"all": [{"event": "Category Viewed"}, {"not": {"event": "Category Viewed", "where": OFTEN["where"]}}]}


async def ours(stack: Stack, tenant: Any, topic: str) -> list[dict[str, Any]]:
    """The partner's records of a topic."""
    found = [orjson.loads(record.value) for record in await read(stack, topic)]
    return [each for each in found if each["partner"] == tenant.id]


def told_of(tenant: Any, segment: str, size: int) -> dict[str, Any] | None:
    """The segment's history, when it ends with that size."""
    found: dict[str, Any] = tenant.get(f"/segments/{segment}/history?by=minute")
    sizes = [series["points"][-1]["customers"] for series in found["series"] if series["scope"] == "all"]
    return found if sizes == [size] else None


def tried(tenant: Any, condition: dict[str, Any], size: int) -> dict[str, Any] | None:
    """What the preview says, when it is that size."""
    answer = tenant.api.post("/segments/preview", json={"condition": condition})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["customers"] == size, found
    return found


@pytest.mark.slow
async def test_a_segment_made_late_counts_what_was_before_it_through_kill_9(stack: Stack, tenant: Any) -> None:
    topic = f"raw.{tenant.id}.app"
    users = [{"userId": f"u{number}"} for number in range(60)]
    # User n views jackets n % 5 times; the first visitor was somebody else before.
    events = [viewed(100 * n + view, who) for n, who in enumerate(users) for view in range(n % 5)]
    events += [viewed(9000 + n, who, "Shoes") for n, who in enumerate(users)]
    events += [viewed(9100 + view, {"anonymousId": "before"}) for view in range(3)]
    events += [{"type": "track", "event": "Login", "messageId": "l1", "anonymousId": "before"} | users[0]]
    await produce(stack, topic, events)

    async def all_in() -> bool:
        return len(await ours(stack, tenant, "history")) == len(events)

    await eventually(all_in, 60, what="all events in history")
    often = 1 + sum(n % 5 >= 3 for n in range(60))
    never = sum(n % 5 == 0 for n in range(1, 60))
    # Tried first: the same number, and no segment yet.
    answer = await eventually(lambda: tried(tenant, OFTEN, often), 30, what="the preview")
    assert (answer["margin"], len(answer["sample"])) == (0, 10)
    wrong = tenant.api.post("/segments/preview", json={"condition": {"segment": "nobody"}})
    assert (wrong.status_code, wrong.json()["path"]) == (400, "$.condition.segment"), wrong.text
    tenant.create("segments", id="often", name="Often", condition=OFTEN)
    tenant.create("segments", id="never", name="Shoes alone", condition=NEVER)
    stack.kill("fanout")
    # While it is read, a user does what makes the difference.
    await produce(stack, topic, [viewed(9200, users[2]), viewed(9201, users[5])])
    found = await counted(tenant, "often", {"customers": often + 1, "identified": often + 1}, {"app": often + 1}, 90)
    assert found["back_fill"] == 1
    assert found["coverage_from"] == 0
    await counted(tenant, "never", {"customers": never - 1}, {"app": never - 1}, 30)
    # Nobody was told twice, and nobody who has viewed a jacket entered those who have not.
    told = await ours(stack, tenant, "segments.transitions")
    entered = [(change["segment"], change["customer"]) for change in told if change["kind"] == "entered"]
    assert len(entered) == len(set(entered))
    assert {segment: sum(one == segment for one, _ in entered) for segment in ("often", "never")} == {
        "often": often + 1,
        "never": never - 1 + sum(change["kind"] == "left" for change in told),
    }
    # An edit asks of the past again, and leaves nobody behind.
    once = {**OFTEN, "count": {"op": ">=", "value": 1}}
    await asyncio.to_thread(tenant.edit, "/segments/often", condition=once)
    once_or_more = 1 + sum(n % 5 >= 1 for n in range(60)) + 1
    await counted(tenant, "often", {"customers": once_or_more}, {"app": once_or_more}, 60)
    # When the minute is over, how it came to that is told.
    history = await eventually(lambda: told_of(tenant, "often", once_or_more), 90, what="the minute's end")
    whole = next(series for series in history["series"] if series["scope"] == "all")
    assert whole["adds"] - whole["drops"] == once_or_more
    assert {series["name"] for series in history["series"]} == {None, "app", "Mobile"}
    asked = "SELECT sum(adds - drops) AS n, max(customers) AS m FROM segment_counts_history WHERE scope = 'all' "
    answer = tenant.api.post("/sql", json={"query": f"{asked} AND segment = 'often'"}).json()
    assert answer["rows"] == [[once_or_more, once_or_more]], answer
