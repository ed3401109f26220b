"""The analyst's commands, on what went through Kafka."""

from __future__ import annotations

import json
from typing import Any

from eventually import eventually
from stack import Stack, produce
from typer.testing import CliRunner

from pipeline.cli.main import app


def headrace(stack: Stack, *arguments: str) -> str:
    """A command's standard output; it must end with 0."""
    result = CliRunner().invoke(app, [*arguments, "--api", stack.api], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_counts_members_customer_and_timeline_on_the_command_line(stack: Stack, tenant: Any) -> None:
    tenant.create("segments", id="seen", name="Seen", condition={"event": "Seen"})
    events = [
        {"event": "Seen", "userId": "ann", "messageId": "1", "properties": {"colour": "red 🧥"}},
        {"event": "Seen", "anonymousId": "a1", "messageId": "2"},
    ]
    await produce(stack, f"raw.{tenant.id}.app", events)

    def counted() -> Any:
        found = json.loads(headrace(stack, "segments", "counts", tenant.id, "seen", "--json"))
        return found["complete"] and found["total"]["customers"] == 2 and found

    found = await eventually(counted, 60)
    assert found["total"] == {"customers": 2, "identified": 1, "anonymous": 1}
    assert [(row["name"], row["customers"]) for row in found["by_source"]] == [("app", 2)]
    assert found["as_of"] > 0
    assert found["lag_ms"] >= 0

    shown = headrace(stack, "segments", "counts", tenant.id, "seen")
    assert "channel Mobile" in shown
    assert "complete" in shown

    def listed() -> Any:
        members = json.loads(headrace(stack, "segments", "members", tenant.id, "seen", "--source", "app", "--json"))
        return len(members) == 2 and members

    members = await eventually(listed, 20)
    assert [row["customer"] for row in members] == [f"{tenant.id}|a|a1", f"{tenant.id}|u|ann"]

    assert "seen" in headrace(stack, "customers", "show", tenant.id, "ann")

    beside = headrace(stack, "segments", "overlap", tenant.id, "seen", "--with-source", "app", "--json")
    assert json.loads(beside)["both"] == 2
    why = headrace(stack, "segments", "explain", tenant.id, "seen", "ann")
    assert "yes did “Seen” at least once" in why
    assert "app  1" in why

    def happened() -> Any:
        return json.loads(headrace(stack, "customers", "timeline", tenant.id, "ann", "--json"))

    (event,) = await eventually(happened, 20)
    assert (event["name"], event["source"], event["properties"]) == ("Seen", "app", {"colour": "red 🧥"})

    nobody = CliRunner().invoke(app, ["customers", "show", tenant.id, "nobody", "--api", stack.api])
    assert nobody.exit_code == 1
    assert "no customer 'nobody'" in nobody.output
