"""`headrace sources verify`, `live` and `activity` on the running product: every stage, and one that is missing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest
from eventually import eventually
from stack import Stack, produce
from typer.testing import CliRunner, Result

from pipeline.cli.main import app


async def headrace(stack: Stack, *arguments: str, **env: str) -> Result:
    """A command, in a thread: it may wait for what the test does meanwhile."""
    known = {"HEADRACE_API": stack.api, "HEADRACE_GATEWAY": stack.gateway, "COLUMNS": "250"}
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=known | env)


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    """The process does nothing meanwhile."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def test_a_test_event_passes_every_stage_with_timings_and_counts_nowhere(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="all", name="All", condition={"event": "Headrace Test"})
    tenant.create("sources", id="site", name="Site", code="www", bridge="js", domain="*.shop.example")
    found = await headrace(stack, "sources", "verify", tenant.id, "www", "--json")
    assert found.exit_code == 0, found.output
    passed = json.loads(found.stdout)["passed"]
    assert [each["stage"] for each in passed] == ["edge", "raw", "accepted", "counted"]
    moments = [each["after_ms"] for each in passed]
    assert moments == sorted(moments)
    assert moments[0] == 0
    assert "test" in passed[2]["flags"]
    shown = await headrace(stack, "sources", "verify", tenant.id, "site")
    assert "counted nowhere" in shown.stdout, shown.output
    # Straight to Kafka, as its producers do; a real event behind it tells when both are done.
    by_topic = await headrace(stack, "sources", "verify", tenant.id, "app", KAFKA_BOOTSTRAP_SERVERS=stack.kafka)
    assert by_topic.exit_code == 0, by_topic.output
    await produce(stack, f"raw.{tenant.id}.app", [{"event": "Headrace Test", "userId": "real"}])

    def counted() -> bool:
        return bool(tenant.get("/segments/all/counts")["total"]["customers"] == 1)

    await eventually(counted, 30)
    assert tenant.api.get("/customers/headrace-test").status_code == 404


async def test_a_source_that_wants_a_secret_key_is_verified_with_one_for_the_moment(stack: Stack, tenant: Any) -> None:
    tenant.create("sources", id="server", name="Server", code="server", bridge="rest", policy={"key": "secret"})
    found = await headrace(stack, "sources", "verify", tenant.id, "server")
    assert found.exit_code == 0, found.output
    assert tenant.get("/sources/server/keys")["items"] == []


@pytest.mark.parametrize("bridge", ["crm", "call-center"])
async def test_the_doors_of_other_systems_are_tried_with_a_key_and_count_nowhere(
    stack: Stack, tenant: Any, bridge: str
) -> None:
    tenant.create("sources", id="server", name="Server", code="server", bridge=bridge)
    found = await headrace(stack, "sources", "verify", tenant.id, "server", "--json")
    assert found.exit_code == 0, found.output
    passed = json.loads(found.stdout)["passed"]
    assert [each["stage"] for each in passed] == ["edge", "raw", "accepted", "counted"]
    assert "test" in passed[3]["flags"]
    assert tenant.get("/sources/server/keys")["items"] == []
    for who in ("headrace-test", "+15550100"):
        assert tenant.api.get(f"/customers/{who}").status_code == 404


async def test_each_stage_that_is_not_reached_is_told_with_the_next_step(stack: Stack, tenant: Any) -> None:
    tenant.create("sources", id="api", name="Api", code="api", bridge="rest")

    async def refused(*arguments: str, **env: str) -> str:
        found = await headrace(stack, "sources", "verify", tenant.id, *arguments, **env)
        assert found.exit_code == 1, found.output
        return found.stderr

    assert "there are: online-store, app, api" in await refused("none")
    assert "no gateway answers" in await refused("api", "--gateway", "http://127.0.0.1:1")
    tenant.edit("/sources/api", active=False)
    assert f"headrace sources switch {tenant.id} api on" in await refused("api")
    tenant.edit("/sources/api", active=True)

    only = {"accepts": "payload", "payload": {"required": ["plan"]}}
    tenant.edit("/sources/api", policy=only)

    async def rejected() -> bool:
        return "intake rejects it" in await refused("api")

    await eventually(rejected, 20, every=0.5)
    tenant.edit("/sources/api", policy={})
    with paused(stack.process("worker", "--roles", "intake")):
        assert "headrace worker --roles intake" in await refused("api", "--timeout", "2")
    with paused(stack.process("worker", "--roles", "fanout")):

        async def not_counted() -> bool:
            # Intake, just thawed, may need a moment.
            return "headrace worker --roles fanout" in await refused("api", "--timeout", "2")

        await eventually(not_counted, 30)
    # One that can't be sent from here is waited for.
    tenant.create("sources", id="gh", name="GitHub", code="gh", bridge="webhook-github", secret="s-1")
    told = await refused("gh", "--wait", "0.2")
    assert f"{stack.gateway}/v1/webhooks/{tenant.id}/gh" in told
    waiting = asyncio.create_task(headrace(stack, "sources", "verify", tenant.id, "app", "--wait", "30"))

    async def seen() -> bool:
        await produce(stack, f"raw.{tenant.id}.app", [{"event": "Seen", "userId": "ann"}])
        return waiting.done()

    await eventually(seen, 30, every=0.5)
    assert waiting.result().exit_code == 0, waiting.result().output


async def test_live_shows_what_comes_and_activity_sums_it_up(stack: Stack, tenant: Any) -> None:
    topic = f"raw.{tenant.id}.app"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline.cli.main", "sources", "live", tenant.id, "app", "--api", stack.api),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Who runs the tests in the background of a shell has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert b"Watching" in await asyncio.wait_for(process.stderr.readline(), 60)
        await produce(stack, topic, [{"event": "Seen", "userId": "ann"}, {"event": "Seen\x1b[2J", "userId": 7.5}])
        lines: list[str] = []
        async with asyncio.timeout(30):
            while len(lines) < 5:
                lines.append((await process.stdout.readline()).decode())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            raise
    stages = sorted(line.split()[1] for line in lines)
    assert stages == ["accepted", "counted", "raw", "raw", "rejected"], lines
    (why,) = [line for line in lines if " rejected " in line]
    assert "shape at $.userId" in why
    assert not any("\x1b" in line for line in lines), "what clients write moves no cursor"

    def summed() -> Any:
        found = tenant.get("/sources/app/activity")
        assert (found["day"]["accepted"], found["day"]["rejected"]) == (1, 1)
        return found

    found = await eventually(summed, 20)
    assert found["reasons"] == [{"reason": "shape", "count": 1}]
    assert found["hour"]["reject_rate"] == 0.5
    assert found["last"] >= found["accepted_last"]
    table = (await headrace(stack, "sources", "activity", tenant.id)).stdout
    assert "shape 1" in table
    assert "online-store" in table
    shown = (await headrace(stack, "sources", "show", tenant.id, "app")).stdout
    assert "1 (50.0%)" in shown


@pytest.mark.parametrize(("path", "status"), [("/sources/none/live", 404), ("/sources/none/activity", 404)])
def test_what_is_not_there_is_not_watched(tenant: Any, path: str, status: int) -> None:
    answer = tenant.api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, "unknown_source")


async def test_the_last_use_of_a_secret_key_is_told(stack: Stack, tenant: Any) -> None:
    tenant.create("sources", id="till", name="Till", code="till", bridge="rest", policy={"key": "secret"})
    keys = [tenant.create("sources/till/keys", name=name) for name in ("Old", "New")]

    async with httpx.AsyncClient() as http:

        async def taken() -> bool:
            event = {"event": "Sold", "userId": "ann"}
            answer = await http.post(f"{stack.gateway}/v1/track", auth=(keys[1]["key"], ""), json=event)
            return answer.status_code == 200

        await eventually(taken, 10, every=0.2)

    def used() -> Any:
        items = {item["name"]: item["last_used"] for item in tenant.get("/sources/till/keys")["items"]}
        return items["New"] and items["Old"] is None

    await eventually(used, 20)
