"""A source's policy through the whole product: what is taken, found out, kept, counted; and the rejected, replayed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import orjson
from eventually import eventually
from records import read_all
from stack import Stack
from typer.testing import CliRunner

from pipeline.cli.main import app

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
TRIP = {
    "title": "Trip booked",
    "description": "A trip was booked.",
    "properties": {"price": {"type": "number"}},
    "required": ["price"],
}


def headrace(stack: Stack, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*arguments, "--api", stack.api], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout


async def send(stack: Stack, topic: str, *records: tuple[dict[str, Any], dict[str, str]]) -> None:
    producer = stack.client().producer()
    await producer.start()
    try:
        for body, headers in records:
            known = [(name, text.encode()) for name, text in headers.items()]
            await producer.send_and_wait(topic, orjson.dumps(body), headers=known)
    finally:
        await producer.stop()


async def activity(stack: Stack, partner: str, source: str) -> dict[str, Any]:
    """The sums of what intake told of a source."""
    sums: dict[str, Any] = {"accepted": 0, "rejected": {}, "dropped": {}}
    for record in await read_all(stack.client(), "sources.activity"):
        row = orjson.loads(record.value)
        if (row["partner"], row["source"]) == (partner, source):
            sums["accepted"] += row["accepted"]
            for kind in ("rejected", "dropped"):
                for name, count in row[kind].items():
                    sums[kind][name] = sums[kind].get(name, 0) + count
    return sums


async def test_events_by_policy_are_counted_dispatched_and_kept_as_it_says(
    stack: Stack, tenant: Any, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(
        json.dumps(
            {
                "mapping": {
                    "events": [
                        {
                            "event": "Item Sold",
                            "userId": "$.who",
                            "messageId": "$.id",
                            "properties": {"sku": "$.sku"},
                            "context": {"userAgent": "$.agent"},
                        }
                    ]
                },
                "transient": True,
                "gpc": "drop",
                "events": ["Item Sold"],
            }
        )
    )
    made = headrace(
        stack,
        "sources",
        "add",
        tenant.id,
        "Till",
        "--id",
        "till",
        "--bridge",
        "kafka",
        "--policy",
        f"@{policy}",
        "--json",
    )
    assert json.loads(made)["policy"]["transient"] is True
    where = [{"property": "@.browser", "op": "equals", "value": "Firefox"}]
    tenant.create("segments", id="sold", name="Sold", condition={"event": "Item Sold", "where": where})
    sale = {"id": "1", "who": "ann", "sku": "a", "agent": FIREFOX}
    await send(
        stack,
        f"raw.{tenant.id}.till",
        (sale, {}),
        (sale, {}),
        (sale | {"id": "2", "who": "bob", "agent": "curl/8"}, {}),
        (sale | {"id": "3", "who": "cy"}, {"headrace_gpc": "1"}),
        ({"id": "4"}, {}),
    )

    def counted() -> bool:
        found = tenant.get("/segments/sold/counts")
        return bool(found["complete"] and found["total"]["customers"] == 1)

    await eventually(counted, 60, what="ann, who came by Firefox")

    async def told() -> bool:
        wanted = {"accepted": 3, "rejected": {"no_identity": 1}, "dropped": {"consent": 1}}
        return await activity(stack, tenant.id, "till") == wanted

    await eventually(told, 20, what="what became of each record, summed")
    # Transient: she is known and counted, and no timeline has what she did.
    assert tenant.get("/customers/ann")["id"] == f"{tenant.id}|u|ann"
    history = [orjson.loads(record.value) for record in await read_all(stack.client(), "history")]
    assert [event for event in history if event["partner"] == tenant.id] == []


async def test_nobodys_events_stand_on_history_and_count_nowhere(stack: Stack, tenant: Any) -> None:
    tenant.edit("/sources/app", policy={"gpc": "anonymous"})
    tenant.create("segments", id="seen", name="Seen", condition={"event": "Seen"})
    topic = f"raw.{tenant.id}.app"
    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    seen = {"event": "Seen", "userId": "ann"}
    await send(
        stack,
        topic,
        (seen | {"messageId": "1"}, {"headrace_gpc": "1"}),
        (seen | {"messageId": "1"}, {"headrace_gpc": "1"}),
        (seen | {"messageId": "2", "userId": "test", "context": {"test": True}}, {}),
        (seen | {"messageId": "3", "userId": "bob"}, {}),
    )

    def counted() -> bool:
        found = tenant.get("/segments/seen/counts")
        return bool(found["complete"] and found["total"]["customers"] == 1)

    await eventually(counted, 60, what="bob alone")

    async def kept() -> bool:
        rows = [orjson.loads(record.value) for record in await read_all(stack.client(), "history")]
        mine = {row["id"]: row for row in rows if row["partner"] == tenant.id}
        if set(mine) != {"1", "2", "3"}:
            return False
        assert [row["id"] for row in rows if row["partner"] == tenant.id].count("1") == 1
        assert (mine["1"].get("customer"), mine["1"].get("user_id"), mine["1"]["flags"]) == (None, None, ["anonymous"])
        assert (mine["2"].get("customer"), mine["2"]["flags"]) == (None, ["test"])
        return bool(mine["3"]["customer"] == f"{tenant.id}|u|bob")

    await eventually(kept, 20)
    for nobody in ("ann", "test"):
        assert tenant.api.get(f"/customers/{nobody}").status_code == 404


async def test_what_the_catalogue_does_not_allow_is_rejected_mended_and_replayed_once(
    stack: Stack, tenant: Any, tmp_path: Path
) -> None:
    (tmp_path / "trip.json").write_text(json.dumps(TRIP))
    headrace(stack, "event-types", "add", tenant.id, "Trip Booked", "--type", f"@{tmp_path / 'trip.json'}")
    tenant.edit("/sources/app", policy={"accepts": "catalogue"})
    tenant.create(
        "segments",
        id="booked",
        name="Booked",
        condition={"event": "Trip Booked", "where": [{"property": "price", "op": ">", "value": 5}]},
    )
    topic = f"raw.{tenant.id}.app"
    trip = {"event": "Trip Booked", "properties": {"price": "7.5"}}

    async def rejections(count: int) -> list[dict[str, Any]]:
        def there() -> Any:
            items = tenant.get("/rejected")["items"]
            return items if len(items) == count else None

        return await eventually(there, 60, what=f"{count} rejections")

    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    await send(stack, topic, (trip | {"userId": "ann"}, {}), (trip | {"userId": "bob", "event": "Trip Boked"}, {}))
    found = await rejections(2)
    reasons = sorted((item["reason"], item["path"]) for item in found)
    assert reasons == [("bad_property", "$.properties.price"), ("unknown_event", "$.event")]

    listed = headrace(stack, "rejected", "list", tenant.id, "--reason", "bad_property", "--since", "1h")
    assert "no number" in listed
    (item,) = [item for item in found if item["reason"] == "bad_property"]
    assert '"7.5"' in headrace(stack, "rejected", "show", tenant.id, item["id"])

    patch = tmp_path / "patch.json"
    patch.write_text(
        json.dumps(
            [
                {"op": "set", "path": "$.properties.price", "value": {"path": "$.properties.price", "as": "number"}},
                {"op": "replace", "path": "$.event", "values": {"Trip Boked": "Trip Booked"}},
            ]
        )
    )
    order = ["rejected", "replay", tenant.id, "--all", "--patch", f"@{patch}"]
    assert "2 refused again" in headrace(stack, *order[:4], "--dry-run", code=1)
    assert "2 would be replayed" in headrace(stack, *order, "--dry-run")
    for told in ("2 replayed", "2 replayed before"):
        assert told in headrace(stack, *order, "--yes")

    def counted() -> bool:
        answer = tenant.get("/segments/booked/counts")
        return bool(answer["complete"] and answer["total"]["customers"] == 2)

    await eventually(counted, 60, what="both, mended")
    for user in ("ann", "bob"):
        assert len(tenant.get(f"/customers/{user}/timeline")["items"]) == 1
    assert tenant.get(f"/rejected/{item['id']}")["replayed"]["by"].startswith("cli:")
    refused = tenant.api.post("/rejected/replay", json={"patch": [{"op": "set", "path": "$.a", "value": "$.b["}]})
    assert (refused.status_code, refused.json()["path"]) == (400, "$.patch[0].value")
    assert time.time() * 1000 - tenant.get("/rejected")["items"][0]["at"] < 300_000
