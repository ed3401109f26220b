"""For the tests of webhooks: a source of a bridge, and a request as a provider sends it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.agents.judge import judge
from pipeline.bridges.base import BridgeRequest, Parsed, Refused
from pipeline.bridges.registry import BRIDGES
from pipeline.events.verdicts import RejectError
from pipeline.models.control import Source

__all__ = ["NOW_MS", "deliver", "made", "nonsense_is_taken_or_refused", "refusal", "source_of"]

NOW_MS = 1_790_000_000_000


def source_of(bridge: str, **settings: Any) -> Source:
    return Source(
        id="hook", partner="acme", name="Hook", code="hook", bridge=bridge, settings=settings, version=1, created=0,
        updated=0,
    )  # fmt: skip


def deliver(
    source: Source, body: bytes, headers: dict[str, str], *secrets: bytes, now_ms: int = NOW_MS, url: str = ""
) -> Parsed:
    lower = {name.lower(): value for name, value in headers.items()}
    return BRIDGES[source.bridge].parse(BridgeRequest("webhook", lower, body, url=url), source, secrets, now_ms)


def made(parsed: Parsed, source: Source) -> list[dict[str, Any]]:
    """The events, each of which intake takes."""
    for out in parsed.events:
        key, _ = judge(source, out.value, [], appended=NOW_MS + 1000, control=1, fallback_id="none")
        assert key == out.key
    return [orjson.loads(out.value) for out in parsed.events]


def refusal(*args: Any, **kwargs: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        deliver(*args, **kwargs)
    return caught.value.status, caught.value.code


def nonsense_is_taken_or_refused(
    source: Source, body: bytes, headers: dict[str, str], secret: bytes, url: str = "", now_ms: int = NOW_MS
) -> None:
    """Well signed, whatever it says: nothing but `Refused` is raised, and what is taken intake can judge."""
    try:
        parsed = deliver(source, body, headers, secret, url=url, now_ms=now_ms)
    except Refused as no:
        if no.status == 401:
            raise AssertionError("it was signed") from no
        return
    for out in parsed.events:
        try:
            judge(source, out.value, [], appended=NOW_MS, control=1, fallback_id="none")
        except RejectError as error:
            if error.reason != "bad_time":  # which intake alone judges
                raise
