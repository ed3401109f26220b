"""The exported contracts: valid, complete, and never stale."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.models.contracts import contracts, export, stale
from pipeline.models.resources import resource
from pipeline.topics.spec import load

CONTRACTS = contracts()


def test_the_exported_files_are_what_the_models_say() -> None:
    assert stale(resource("schemas") / "json") == [], "run `headrace schemas export`"


def test_a_stale_a_missing_and_a_superfluous_file_are_named(tmp_path: Path) -> None:
    export(tmp_path)
    assert stale(tmp_path) == []
    (tmp_path / "Event.schema.json").write_bytes(b"{}")
    (tmp_path / "Source.schema.json").unlink()
    (tmp_path / "Gone.schema.json").write_bytes(b"{}")
    assert stale(tmp_path) == ["Event.schema.json", "Gone.schema.json", "Source.schema.json"]
    assert export(tmp_path) == ["Event.schema.json", "Gone.schema.json", "Source.schema.json"]
    assert stale(tmp_path) == []


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_each_is_a_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(orjson.loads(CONTRACTS[name]))


def test_every_model_that_topics_carry_has_one() -> None:
    for spec in load().topics.values():
        for value in spec.value.split(" | "):
            if value[0].isupper():
                assert f"{value}.schema.json" in CONTRACTS


def test_the_schema_of_a_raw_event_takes_and_refuses_what_the_model_does() -> None:
    check = Draft202012Validator(orjson.loads(CONTRACTS["RawEvent.schema.json"])).is_valid
    assert check({"event": "Order Completed", "userId": "u1", "properties": {"total": 9.5}, "unknown": [1]})
    assert not check({"event": 7, "userId": "u1"})
    assert not check({"type": "nonsense"})
