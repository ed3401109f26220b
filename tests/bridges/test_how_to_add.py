"""The example of docs/bridges/how-to-add.md is a bridge, whole and working."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from webhook_world import NOW_MS, source_of

from pipeline.bridges.base import BridgeRequest, Refused
from pipeline.bridges.signatures import signature

PAGE = Path(__file__).parents[2] / "docs/bridges/how-to-add.md"


def test_the_example_takes_what_is_signed_and_nothing_else() -> None:
    block = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block[1], str(PAGE), "exec"), names)
    bridge = names["PagerBridge"]()
    source = source_of("webhook-pager")
    body = orjson.dumps({"kind": "taken", "by": {"email": "a@b.example"}, "at": 1_789_999_000, "alarm": "disk"})
    headers = {"x-pager-signature": signature(b"s", body), "x-pager-delivery": "d-1"}
    [out] = bridge.parse(BridgeRequest("webhook", headers, body), source, [b"s"], NOW_MS).events
    assert orjson.loads(out.value) == {
        "type": "track",
        "event": "Alarm Taken",
        "traits": {"email": "a@b.example"},
        "timestamp": "2026-09-21T13:56:40.000Z",
        "properties": {"alarm": "disk"},
        "messageId": "d-1",
    }
    with pytest.raises(Refused):
        bridge.parse(BridgeRequest("webhook", headers, body + b" "), source, [b"s"], NOW_MS)
