"""Braze: what its answers mean event by event, and how long it asks to wait."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from tool_world import NOW, dispatch

from pipeline.sinks.base import SetupError
from pipeline.sinks.braze import BrazeSink
from pipeline.sinks.classify import MAX_RETRY_AFTER_S

SINK = BrazeSink()


def outcomes(status: int, answer: Any, many: int = 3) -> list[str] | str:
    found = SINK.classify_each(
        status, {}, answer if isinstance(answer, bytes) else orjson.dumps(answer), [b"{}"] * many
    )
    return [each.outcome for each in found] if isinstance(found, list) else found.outcome


def test_what_was_taken_in_part() -> None:
    """The answer as segmentio/action-destinations has it (braze/__tests__/multistatus.test.ts)."""
    error = {"type": "a test error occurred", "input_array": "events", "index": 1}
    assert outcomes(201, {"events_processed": 2, "message": "success", "errors": [error]}) == ["ok", "invalid", "ok"]
    assert outcomes(201, {"message": "success", "errors": [error | {"input_array": "purchases"}]}) == ["ok"] * 3


def test_a_fatal_error_is_of_the_whole_request() -> None:
    """4xx: nothing was taken, so that each goes alone, though ``errors`` names one."""
    error = {"type": "Test fatal error", "input_array": "events", "index": 0}
    answer = {"message": "Valid data must be provided", "errors": [error, error]}
    assert outcomes(400, answer) == "invalid"
    assert SINK.classify(400, {}, orjson.dumps(answer)).detail.endswith("Valid data must be provided")


@pytest.mark.parametrize("errors", [5, "x", {"a": 1}, None, [], [1], [None], ["x"]])
def test_errors_that_name_no_event_leave_all_as_taken(errors: Any) -> None:
    """Asked again, Braze would count all of them twice."""
    found = outcomes(201, {"message": "success", "errors": errors})
    assert found in ("ok", ["ok"] * 3)


@pytest.mark.parametrize("index", [3, -1, True, "1", 1.0, None])
def test_an_index_that_is_none_refuses_nobody(index: Any) -> None:
    assert outcomes(201, {"errors": [{"type": "bad", "input_array": "events", "index": index}]}) == ["ok"] * 3


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b'"x"', b"[" * 9000])
def test_an_answer_that_is_unreadable_is_what_its_status_says(body: bytes) -> None:
    assert outcomes(201, body) == "ok"


def test_how_long_to_wait() -> None:
    """``X-RateLimit-Retry-After``, else until ``X-RateLimit-Reset``."""
    now = time.time()
    both = {"x-ratelimit-retry-after": "12", "x-ratelimit-reset": str(int(now) + 900)}
    assert SINK.classify(429, both, b"").retry_after == 12
    until = SINK.classify(429, {"x-ratelimit-reset": str(int(now) + 900)}, b"").retry_after
    assert until is not None
    assert 840 < until <= 900
    assert SINK.classify(429, {"x-ratelimit-reset": "1"}, b"").retry_after == 0
    assert SINK.classify(429, {"x-ratelimit-reset": "9" * 30}, b"").retry_after == MAX_RETRY_AFTER_S
    assert SINK.classify(429, {"x-ratelimit-retry-after": "soon", "retry-after": "7"}, b"").retry_after == 7


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_name_that_braze_can_not_hold_is_refused(name: str) -> None:
    config = SINK.config({"address": "https://rest.iad-01.braze.com"})
    with pytest.raises(ValueError, match="1 to 255"):
        SINK.part(dispatch(name=name), config, NOW)


def test_it_must_be_told_which_instance_it_is() -> None:
    with pytest.raises(SetupError, match="address"):
        SINK.config({})
