"""Calls and customers through all of it: gateway, intake, fan-out, query."""

from __future__ import annotations

from typing import Any

import httpx
from eventually import eventually
from stack import Stack


def add_source(stack: Stack, tenant: Any, id: str, bridge: str, channel: str) -> httpx.AsyncClient:
    """A source of a server, and a client with its secret key."""
    tenant.create("sources", id=id, name=id, code=id, bridge=bridge, channel=channel, policy={"region": "SE"})
    key = tenant.create(f"sources/{id}/keys", name="The test's")["key"]
    return httpx.AsyncClient(base_url=stack.gateway, headers={"authorization": f"Bearer {key}"}, timeout=30)


async def test_calls_before_and_after_the_customers_upsert_stand_on_one_timeline_and_count(
    stack: Stack, tenant: Any
) -> None:
    crm = add_source(stack, tenant, "crm", "crm", "CRM")
    calls = add_source(stack, tenant, "calls", "call-center", "Call Center")
    twice = {"event": "Call Ended", "count": {"op": ">=", "value": 2}}
    tenant.create("segments", id="called", name="Called twice", condition=twice)

    async def post(client: httpx.AsyncClient, path: str, body: Any) -> None:
        async def taken() -> bool:
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, answer.text  # until the gateway has followed the control log
            return True

        await eventually(taken, 10)

    def call(number: int, **more: Any) -> dict[str, Any]:
        return {"call_id": f"c{number}", "status": "ended", "direction": "inbound", "from": "070-123 45 67"} | more

    def known(text: str, what: set[str]) -> bool:
        timeline = tenant.get(f"/customers/{text}/timeline")
        assert timeline["customer"] == f"{tenant.id}|u|17"
        assert {event["id"] for event in timeline["items"]} == what
        return True

    await post(calls, f"/v1/calls/{tenant.id}/calls", call(1))
    await eventually(lambda: tenant.get("/customers/+46701234567")["id"] == f"{tenant.id}|p|+46701234567", 60)
    customer = {
        "id": "17",
        "phone": "+46 (0)70 123 45 67",
        "email": "Ann@Shop.example",
        "name": "Ann",
        "traits": {"plan": "pro"},
    }
    crm.headers["idempotency-key"] = "upsert"
    await post(crm, f"/v1/crm/{tenant.id}/crm/customers", customer)
    await eventually(lambda: known("+46701234567", {"c1:ended", "upsert:0"}), 60)
    outbound = call(2, direction="outbound", to="+46701234567", **{"from": "+46812345678"})
    await post(calls, f"/v1/calls/{tenant.id}/calls", [outbound, outbound, call(3, status="started")])
    for text in ("17", "+46 70-123 45 67", "ann@shop.example"):
        await eventually(lambda text=text: known(text, {"c1:ended", "upsert:0", "c2:ended", "c3:started"}), 60)
    person = tenant.get("/customers/17")
    assert set(person["segments"]) == {"called"}
    assert (person["traits"]["plan"], person["traits"]["phone"]) == ("pro", "+46701234567")

    def counted() -> bool:
        total = tenant.get("/segments/called/counts")["total"]
        return (total["customers"], total["identified"]) == (1, 1)

    await eventually(counted, 60)
    keys = tenant.get("/sources/calls/keys")["items"]
    assert len(keys) == 1
