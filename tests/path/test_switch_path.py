"""A source is switched off: in every process within two seconds, and nothing is half counted."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from eventually import eventually
from ports import free_port
from stack import Stack, produce
from test_main_path import read

_WITHIN = 2.0


@contextmanager
def another(stack: Stack, data: Path, *role: str, **settings: str) -> Iterator[None]:
    """One more process of a role, beside those of ``stack``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KAFKA_", "HEADRACE_"))}
    environment |= {
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka,
        "HEADRACE_LANES": "4",
        "HEADRACE_DATA_DIR": str(data),
        # The key that encrypts secrets is the data directory's own where none is set.
        "HEADRACE_SECRET_KEY": (stack.data / "secret.key").read_text().strip(),
    } | settings
    with (data / f"{role[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", *role], env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


async def test_switched_off_it_stops_in_two_gateways_and_two_workers_and_on_again_all_goes_on(
    stack: Stack, tenant: Any, tmp_path: Path
) -> None:
    made = tenant.create("sources", id="shop", name="Shop", code="shop", bridge="rest")
    tenant.create("segments", id="seen", name="Seen", condition={"event": "Seen"})
    port, door = free_port(), free_port()
    gateways = [stack.gateway, f"http://127.0.0.1:{port}"]
    with (
        another(stack, tmp_path, "gateway", HEADRACE_GATEWAY_PORT=str(port)),
        another(stack, tmp_path, "worker", "--roles", "intake", HEADRACE_WORKER_PORT=str(door)),
    ):
        async with httpx.AsyncClient(timeout=30) as http:

            async def both() -> bool:
                try:
                    lanes = (await http.get(f"http://127.0.0.1:{door}/readyz")).json()["roles"]["intake"]["lanes"]
                    return len(lanes) == 2 and (await http.get(f"{gateways[1]}/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await eventually(both, 60, what="a second gateway, and two of four lanes with the second worker")
            accepted: set[str] = set()
            off = asyncio.Event()

            async def post(gateway: str, code: str = "shop") -> httpx.Response:
                name = uuid.uuid4().hex
                body = {"event": "Seen", "userId": name, "messageId": name}
                answer = await http.post(f"{gateway}/v1/track", auth=(f"{tenant.id}.{code}", ""), json=body)
                if answer.status_code == 200:
                    accepted.add(name)
                return answer

            async def traffic(gateway: str) -> None:
                while not off.is_set():
                    await post(gateway)
                    await asyncio.sleep(0.02)

            async def refused(gateway: str, code: str, reason: str) -> None:
                async def no() -> bool:
                    return (await post(gateway, code)).json().get("code") == reason

                await eventually(no, _WITHIN, every=0.02, what=f"{gateway} refuses: {reason}")

            running = [asyncio.create_task(traffic(gateway)) for gateway in gateways]
            await eventually(lambda: len(accepted) > 50, 30)
            tenant.edit("/sources/shop", active=False)
            switched = time.monotonic()
            await asyncio.gather(*(refused(gateway, "shop", "inactive_source") for gateway in gateways))
            assert time.monotonic() - switched < _WITHIN
            # Both workers: what is written past the gateways, to every partition, is rejected.
            late = [{"event": "Seen", "userId": f"late-{n}", "messageId": f"late-{n}"} for n in range(20)]
            await asyncio.sleep(max(0.0, switched + _WITHIN - time.monotonic()))
            await produce(stack, made["topic"], late)
            off.set()
            await asyncio.gather(*running)
            # Intake judges a source as it is then: what is to be rejected must be read while it is off.
            await eventually(
                lambda: tenant.get("/sources/shop/activity")["day"]["rejected"] >= len(late),
                30,
                what="a verdict on what was written while it was off",
            )

            # On again; and an old code is refused by its name.
            tenant.edit("/sources/shop", active=True, code="store")
            for gateway in gateways:

                async def taken(where: str = gateway) -> bool:
                    return (await post(where, "store")).status_code == 200

                await eventually(taken, _WITHIN + 1, every=0.05)
                answer = await post(gateway, "shop")
                assert (answer.status_code, answer.json()["code"]) == (401, "wrong_code")
                assert "'shop' is an old code of source shop" in answer.json()["message"]
            after = {"event": "Seen", "userId": "after", "messageId": "after"}
            old = {"event": "Seen", "userId": "old", "writeKey": f"{tenant.id}.shop"}
            await produce(stack, made["topic"], [after, old])

    # Nothing half: each event was either counted or rejected, and none both.
    total = len(accepted) + len(late) + 2

    def all_judged() -> Any:
        day = tenant.get("/sources/shop/activity")["day"]
        return day if day["accepted"] + day["rejected"] == total else None

    day = await eventually(all_judged, 30, what=f"a verdict on each of {total} events")
    rejected = [record for record in await read(stack, "rejected") if record.key == f"{tenant.id}.shop".encode()]
    assert day["rejected"] == len(rejected) >= len(late) + 1

    def counted() -> bool:
        return bool(tenant.get("/segments/seen/counts")["total"]["customers"] == day["accepted"])

    await eventually(counted, 60, what=f"{day['accepted']} customers")
    reasons = {each["reason"] for each in tenant.get("/sources/shop/activity")["reasons"]}
    assert reasons == {"inactive_source", "wrong_code"}
