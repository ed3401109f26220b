"""Computed traits through the whole product: RFM and total spend, live and of the past, and a segment over them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from eventually import eventually
from stack import Stack, produce
from test_main_path import counted

# End to end and long: `make test` has its parts.
pytestmark = pytest.mark.faults

DAY = 86_400
BOUGHT = {"event": "Order Completed"}


def bought(number: int, user: str, total: float, moment: float) -> dict[str, Any]:
    """An order."""
    event = {"type": "track", "event": "Order Completed", "messageId": f"o{number}", "userId": user}
    sent = datetime.fromtimestamp(moment, UTC).isoformat()
    return event | {"properties": {"order_id": f"o{number}", "total": total}, "timestamp": sent}


async def has(tenant: Any, user: str, wanted: dict[str, Any]) -> None:
    """Wait until that is computed of a customer."""

    def look() -> bool:
        answer = tenant.api.get(f"/customers/{tenant.id}|u|{user}")
        return answer.status_code == 200 and answer.json()["traits"].get("computed") == wanted

    await eventually(lambda: asyncio.to_thread(look), 60, what=f"{user} to have {wanted}")


async def test_spend_and_rfm_are_right_live_of_the_past_and_after_a_kill(stack: Stack, tenant: Any) -> None:
    topic, now = f"raw.{tenant.id}.app", datetime.now(UTC).timestamp()
    past = [bought(1, "ann", 60.5, now - 40 * DAY), bought(2, "ann", 40, now - 2 * DAY), bought(3, "ben", 9.99, now)]
    await produce(stack, topic, past)
    spend = {"compute": "sum", "property": "total", "of": BOUGHT}
    scores = {
        "total-spend": spend,
        "recency": {"compute": "last", "of": BOUGHT, "scores": ["30d", "365d"]},
        "frequency": {"compute": "count", "of": BOUGHT, "window": {"rolling": "365d"}, "scores": [2, 3]},
        "monetary": spend | {"window": {"rolling": "30d"}, "scores": [10, 40]},
    }
    for name, computation in scores.items():
        tenant.create("traits", id=name, name=name, computation=computation)
    # Made after the events: their past is read.
    await has(tenant, "ann", {"total-spend": 100.5, "recency": 3, "frequency": 2, "monetary": 3})
    await has(tenant, "ben", {"total-spend": 9.99, "recency": 3, "frequency": 1, "monetary": 1})

    def whole() -> bool:
        found = tenant.get("/traits")["items"]
        return all(each["back_fill"] == 1 and each["worth"]["complete"] for each in found)

    await eventually(lambda: asyncio.to_thread(whole), 30, what="all to be complete")
    champions = {
        "all": [{"trait": "computed.monetary", "op": ">=", "value": 3}, {"trait": "computed.frequency", "value": 2}]
    }
    tenant.create("segments", id="champions", name="Champions", condition=champions)
    await counted(tenant, "champions", {"customers": 1}, {"app": 1}, 60)
    stack.kill("fanout")
    await produce(stack, topic, [bought(4, "ben", 90.01, now)])
    await has(tenant, "ben", {"total-spend": 100, "recency": 3, "frequency": 2, "monetary": 3})
    await counted(tenant, "champions", {"customers": 2}, {"app": 2}, 60)
    gone = tenant.api.delete("/traits/monetary", headers={"If-Match": '"1"'})
    assert (gone.status_code, gone.json()["code"]) == (409, "in_use"), gone.text
    gone = tenant.api.delete("/traits/recency", headers={"If-Match": '"1"'})
    assert gone.status_code == 200, gone.text
    await has(tenant, "ann", {"total-spend": 100.5, "frequency": 2, "monetary": 3})
    wrong = tenant.api.post("/traits", json={"name": "X", "computation": spend | {"property": "order_id"}})
    assert (wrong.status_code, wrong.json()["path"]) == (400, "$.computation.property"), wrong.text
