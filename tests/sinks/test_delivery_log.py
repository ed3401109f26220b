"""Entries of the delivery log: what `models.delivery.Delivery` says, to the byte, whatever a tool answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_world import NOW, asked, dispatch

from pipeline.models.delivery import Delivery
from pipeline.sinks.asking import Attempt
from pipeline.sinks.base import Classified, Request
from pipeline.sinks.delivery_log import entry
from pipeline.sinks.http import Answer

SECRET = "whsec_" + "QUJD" * 8


@given(body=st.binary(max_size=3_000), detail=st.text(st.characters(exclude_categories=["Cs"]), max_size=3_000))
def test_an_entry_is_what_its_model_says(body: bytes, detail: str) -> None:
    url = "https://shop.example/h?token=hush"
    request = asked("webhook", {"url": url}, SECRET)
    attempt = Attempt(request, Answer(503, {}, body), Classified("transient", detail))
    made = entry(dispatch(), attempt, "ann", NOW, 7)
    read = Delivery.model_validate_json(made)
    assert read.to_json() == made
    assert (read.attempt, read.status, read.outcome, read.duration_ms) == (1, 503, "transient", 7)
    assert read.answer == body.decode(errors="replace")[:2_000]
    assert read.detail == detail[:2_000]
    assert read.request["url"] == "https://shop.example/h?token=***"
    assert read.request["headers"]["webhook-signature"] == "***"


def test_an_entry_of_what_was_never_asked() -> None:
    made = entry(dispatch(), Attempt(None, None, Classified("setup", "no secret")), "", NOW, 0)
    read = Delivery.model_validate_json(made)
    assert read.to_json() == made
    assert (read.request, read.answer, read.status) == ({}, "", None)


@pytest.mark.parametrize(
    ("url", "secret_path", "shown"),
    [
        ("https://hooks.example/T0/B0/hush", True, "https://hooks.example/***"),
        ("https://hooks.example/T0/B0", False, "https://hooks.example/T0/B0"),
        ("https://hooks.example/T0?k=hush&l=hush#hush", False, "https://hooks.example/T0?k=***&l=***"),
    ],
)
def test_one_address_is_masked_as_each_request_wants_it(url: str, secret_path: bool, shown: str) -> None:
    for _ in range(2):
        assert Request("POST", url, {}, b"", secret_path=secret_path).shown()["url"] == shown
        assert "hush" not in Request("POST", url, {}, b"", secret_path=True).shown()["url"]
