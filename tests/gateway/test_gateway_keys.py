"""Secret keys: which of a source's keys a secret is, and how what a client passes is taken apart."""

from __future__ import annotations

import pytest
from gateway_world import COMMANDS, command, state_of

from pipeline.gateway.keys import digest, key_of, split_key


def source_with(*secrets):
    adds = [
        command("source.add_key", "rest-id", n, id=f"key-{n}", name=f"Key {n}", hash=digest(secret))
        for n, secret in enumerate(secrets, 1)
    ]
    return state_of([*COMMANDS, *adds]).sources["acme", "rest-id"]


def test_each_of_several_keys_is_found_by_its_secret():
    source = source_with("old-secret", "new-secret")
    assert [key_of(source, given).id for given in ("old-secret", "new-secret")] == ["key-1", "key-2"]


@pytest.mark.parametrize("given", [None, "", "old-secre", "old-secret ", digest("old-secret"), "\ud800", "x" * 100_000])
def test_nothing_else_is_a_key(given):
    assert key_of(source_with("old-secret"), given) is None
    assert key_of(source_with(), given) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("acme.shop", ("acme.shop", None)),
        ("acme.shop.s3cret", ("acme.shop", "s3cret")),
        ("acme.shop.a.b", ("acme.shop", "a.b")),
        ("acme.shop.", ("acme.shop", "")),
        ("acme", ("acme", None)),
        ("", ("", None)),
    ],
)
def test_what_a_client_passes_is_taken_apart(text, parts):
    assert split_key(text) == parts
