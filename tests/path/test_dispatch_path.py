"""A rule puts records on dispatch; the sink delivers them, signed, in order, and retries what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import web
from eventually import eventually
from stack import Stack, produce
from standardwebhooks import Webhook
from test_main_path import read
from test_query_cli import headrace

from pipeline.client import Headrace

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """An endpoint that notes what it got, and answers as told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 200
        self.got.append(({k.lower(): v for k, v in request.headers.items()} | {"status": str(status)}, body))
        return web.Response(status=status)

    def delivered(self) -> list[dict[str, Any]]:
        """What was answered with 200, verified by a verifier that others wrote."""
        found = []
        for headers, body in self.got:
            if headers["status"] == "200":
                found.append(Webhook(SECRET).verify(body, headers))
        return found


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


async def test_rules_deliver_what_they_restrict_to_with_prefix_and_signature(
    stack: Stack, tenant: Any, receiver: Receiver
) -> None:
    tenant.create("integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET)
    rewards = [{"property": "type", "values": ["reward"]}]
    tenant.create(
        "rules", id="r", event="Wallet Transaction", integration="crm", prefix="nector: ", restrictions=rewards
    )
    tenant.create("segments", id="rich", name="Rich", condition={"event": "Wallet Transaction"})
    tenant.create("rules", id="s", event="Segment Entered", integration="crm")
    topic = f"raw.{tenant.id}.app"

    def paid(number: int, kind: Any) -> dict[str, Any]:
        return {"event": "Wallet Transaction", "userId": "ann", "messageId": f"m{number}", "properties": {"type": kind}}

    await produce(stack, topic, [paid(0, "reward")])  # the master switch is off
    await eventually(lambda: tenant.get("/segments/rich/counts")["total"]["customers"] == 1, 60)
    answer = tenant.api.patch("", json={"sending": True}, headers={"If-Match": str(tenant.get("")["version"])})
    assert answer.status_code == 200, answer.text
    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    receiver.answers = [503]  # the first attempt fails, and what follows it must wait for it
    await produce(stack, topic, [paid(n, "reward" if n % 2 else "redeem") for n in range(1, 9)])
    await produce(stack, topic, [{**paid(9, "reward"), "userId": "bob"}, paid(10, True), paid(11, None)])

    def all_there() -> bool:
        return len(receiver.delivered()) == 6

    await eventually(all_there, 60, what="four rewards of ann, bob's, and bob's entry")
    for headers, _ in receiver.got:
        assert headers["webhook-id"]
    mine = [d for d in receiver.delivered() if d["data"]["customer"]["user_id"] == "ann"]
    assert [d["type"] for d in mine] == ["nector: Wallet Transaction"] * 4
    assert [d["data"]["event"]["id"] for d in mine] == ["m1", "m3", "m5", "m7"]
    others = {d["type"] for d in receiver.delivered() if d["data"]["customer"]["user_id"] == "bob"}
    assert others == {"nector: Wallet Transaction", "Segment Entered"}
    failed = [headers["webhook-id"] for headers, _ in receiver.got if headers["status"] == "503"]
    again = [h["webhook-id"] for h, _ in receiver.got if h["status"] == "200"]
    assert len(failed) == 1
    assert failed[0] in again

    async def logged() -> bool:
        rows = [orjson.loads(r.value) for r in await read(stack, "deliveries")]
        outcomes = [row["outcome"] for row in rows if row["partner"] == tenant.id]
        return sorted(outcomes) == ["ok"] * 6 + ["transient"]

    await eventually(logged, 20, what="every attempt in the delivery log")
    with Headrace(stack.api, tenant.id) as client:
        told = client.sql("SELECT outcome, count(*) AS n FROM deliveries GROUP BY ALL ORDER BY ALL").rows()
        assert told == [{"outcome": "ok", "n": 6}, {"outcome": "transient", "n": 1}]
    assert SECRET not in str([r.value for r in await read(stack, "deliveries")])


async def test_what_a_tool_never_takes_is_kept_as_undeliverable(stack: Stack, tenant: Any, receiver: Receiver) -> None:
    tenant.create("integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET)
    tenant.create("rules", id="r", event="Seen", integration="crm")
    tenant.api.patch("", json={"sending": True}, headers={"If-Match": str(tenant.get("")["version"])})
    await asyncio.sleep(2)  # the promise itself: every process acts on a change within 2 s
    receiver.answers = [422, 500, 500, 500, 500]
    for user in ("a", "b"):
        await produce(stack, f"raw.{tenant.id}.app", [{"event": "Seen", "userId": user, "messageId": user}])
        wanted = 1 if user == "a" else 5
        await eventually(lambda wanted=wanted: len(receiver.got) == wanted, 60, what=f"{wanted} attempts")

    async def kept() -> bool:
        rows = [orjson.loads(r.value) for r in await read(stack, f"dispatch.{tenant.id}.crm.undeliverable")]
        return sorted((r["reason"], r["dispatch"]["event"]["id"]) for r in rows) == [
            ("exhausted", "b"),
            ("invalid", "a"),
        ]

    await eventually(kept, 30, what="one refused, one given up after the schedule")


def _mailings(stack: Stack, *words: str) -> Any:
    return orjson.loads(headrace(stack, "mailings", *words, "--json"))


async def test_a_segment_is_sent_whole_each_member_once_through_a_pause_and_kill_9(
    stack: Stack, tenant: Any, receiver: Receiver
) -> None:
    tenant.create("integrations", id="crm", name="CRM", kind="webhook", settings={"url": receiver.url}, secret=SECRET)
    tenant.create("segments", id="buyers", name="Buyers", condition={"event": "Bought"})
    tenant.edit("", sending=True)
    bought = [
        {"event": "Bought" if n % 4 else "Viewed", "userId": f"u{n:03}", "messageId": f"b{n}"} for n in range(160)
    ]
    await produce(stack, f"raw.{tenant.id}.app", bought)
    await eventually(lambda: tenant.get("/segments/buyers/counts")["total"]["customers"] == 120, 60)
    dry = await asyncio.to_thread(_mailings, stack, "add", tenant.id, "buyers", "crm", "--dry-run")
    assert dry["customers"] == 120
    assert tenant.get("/mailings")["items"] == []
    made = await asyncio.to_thread(
        _mailings, stack, "add", tenant.id, "buyers", "crm", "--rate", "20", "--name", "Spring Sale", "--yes"
    )
    assert made["id"] == "buyers"
    await eventually(lambda: tenant.get("/mailings/buyers")["waits"] is None, 30)
    await eventually(lambda: len(receiver.delivered()) >= 15, 60)
    stack.kill("fanout")
    paused = await asyncio.to_thread(_mailings, stack, "pause", tenant.id, "buyers")
    assert "paused" in paused["waits"]
    assert len(receiver.delivered()) < 120
    await asyncio.to_thread(_mailings, stack, "resume", tenant.id, "buyers", "--rate", "1000")

    def done() -> dict[str, Any] | None:
        found: dict[str, Any] = tenant.get("/mailings/buyers")
        return found if found["progress"]["done"] else None

    found = await eventually(done, 60)
    assert (found["progress"]["sent"], found["progress"]["looked_at"]) == (120, 160)
    await eventually(lambda: len(receiver.delivered()) == 120, 30)
    people = [each["data"]["customer"]["user_id"] for each in receiver.delivered()]
    assert sorted(people) == [f"u{n:03}" for n in range(160) if n % 4]
    assert {each["type"] for each in receiver.delivered()} == {"Spring Sale"}
    removed = await asyncio.to_thread(_mailings, stack, "remove", tenant.id, "buyers")
    assert removed["id"] == "buyers"
