"""The exported contracts: valid, complete, and never stale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from jsonschema import Draft202012Validator

from pipeline.models.contracts import contracts, export, stale
from pipeline.models.failures import DeadLetter, Redriven
from pipeline.models.raw import HEADERS
from pipeline.models.resources import resource
from pipeline.stream import dead_letters
from pipeline.stream.dead_letters import Place, letter, marker
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


@pytest.mark.parametrize("size", [10, 800_000])
def test_letters_and_markers_are_what_their_contracts_say(size: int) -> None:
    # Both are written by the engine, which knows no models.
    record = SimpleNamespace(offset=7, timestamp=1_790_000_000_000, key=b"k", value=b"v" * size, headers=[("h", None)])
    parked = letter("fanout", 3, "events", 3, record, KeyError("customer"))
    assert orjson.loads(DeadLetter.model_validate_json(parked).to_json()) == orjson.loads(parked)
    found = dead_letters.DeadLetter.read(
        SimpleNamespace(topic="dead.fanout", partition=3, offset=1, value=parked)  # type: ignore[arg-type]
    )
    moved, _ = marker(found, Place("events", 3, 99))
    assert orjson.loads(Redriven.model_validate_json(moved).to_json()) == orjson.loads(moved)
    for name, body in (("DeadLetter", parked), ("Redriven", moved)):
        Draft202012Validator(orjson.loads(CONTRACTS[f"{name}.schema.json"])).validate(orjson.loads(body))


def test_the_headers_of_a_redriven_record_are_in_the_contract() -> None:
    assert {dead_letters.REDRIVEN, dead_letters.ORIGINAL, dead_letters.APPENDED} <= HEADERS.keys()
