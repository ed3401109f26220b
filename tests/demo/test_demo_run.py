"""The demo as people and CI run it: a process of its own, every figure checked, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from eventually import eventually

from pipeline.stream.kafka import Kafka

COMMAND = [sys.executable, "-m", "pipeline.cli.main", "demo"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that who comes second starts on what the first has left."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def start(data: Path) -> Iterator[Start]:
    """Starts the demo with these settings; what still runs at the end is ended."""
    started: list[subprocess.Popen[str]] = []

    def run(**settings: str) -> subprocess.Popen[str]:
        clean = ("KAFKA_", "HEADRACE_", "DEMO_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(clean) and k != "CI"}
        environment |= {"HEADRACE_DATA_DIR": str(data), "HEADRACE_GATEWAY_PORT": "0", "HEADRACE_API_PORT": "0"}
        process = subprocess.Popen(
            COMMAND,
            env=environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def without_chromium(path: Path) -> str:
    """A PATH with no Chromium on it; Java stays where there is one."""
    path.mkdir()
    java = shutil.which("java")
    if java:
        (path / "java").symlink_to(java)
    return str(path)


@pytest.mark.slow
async def test_held_without_chromium_it_takes_anybodys_events_and_ends_clean(start: Start, tmp_path: Path) -> None:
    process = start(DEMO_HOLD="1", PATH=without_chromium(tmp_path / "bin"))
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    doors: dict[str, Any] = json.loads(line)
    assert doors["wrong"] == []
    assert set(doors["sources"]) == {"online-store", "app", "crm", "github"}
    family = psutil.Process(process.pid).children(recursive=True)
    counts = f"{doors['api']}/v1/partners/{doors['partner']}/segments/jackets/counts"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        before = (await client.get(counts)).json()
        event = {"event": "Category Viewed", "properties": {"category": "Jacket"}}
        crm = doors["sources"]["crm"]
        answer = await client.post(
            f"{doors['gateway']}/v1/track", json=event | {"userId": "me", "writeKey": crm["key"]}
        )
        assert answer.status_code == 200, answer.text
        producer = Kafka(doors["kafka"]).producer()
        await producer.start()
        try:
            visitor = json.dumps(event | {"anonymousId": "it"}).encode()
            await producer.send_and_wait(doors["sources"]["app"]["topic"], visitor)
        finally:
            await producer.stop()

        async def moved() -> bool:
            now = (await client.get(counts)).json()
            rise = {field: now["total"][field] - before["total"][field] for field in now["total"]}
            by_source = {row["name"]: row["customers"] for row in now["by_source"]}
            for row in before["by_source"]:
                by_source[row["name"]] -= row["customers"]
            return rise == {"customers": 2, "identified": 1, "anonymous": 1} and by_source == {
                "app": 1,
                "crm": 1,
                "online-store": 0,
            }

        await eventually(moved, 30)
        order = {"event": "Order Completed", "userId": "me", "messageId": "my-order", "writeKey": crm["key"]}
        assert (await client.post(f"{doors['gateway']}/v1/track", json=order)).status_code == 200

        async def told() -> bool:
            rows = (await client.get(doors["received"])).json()
            return [row["name"] for row in rows if row["event"] == "my-order"] == ["Shop: Order Completed"]

        await eventually(told, 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, process.stderr.read()
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left, f"left behind: {left}"
    assert process.stdout.read() == "", "one line of JSON and nothing else"
    assert "no Chromium here (apt-get install chromium)" in process.stderr.read()


@pytest.mark.slow
@pytest.mark.chromium
def test_ci_checks_every_figure_with_the_shop_driven_in_chromium(start: Start, chromium: str) -> None:
    process = start(CI="true")
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, out + errors
    assert "walk through the shop in Chromium" in out
    assert "figures are right" in out


def test_a_signal_while_it_starts_ends_it_clean(start: Start) -> None:
    process = start(CI="true")
    assert process.stderr is not None
    assert process.stderr.readline(), "it tells that Kafka starts"
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left, f"left behind: {left}"
