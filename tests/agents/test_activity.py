"""What a transaction of intake says it did, source by source."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.agents.activity import Tally
from pipeline.models.activity import Activity
from pipeline.models.control import Source, SourceKey

STAMPS = {"version": 1, "created": 0, "updated": 0}
SOURCE = Source(
    id="app",
    partner="acme",
    name="App",
    code="app",
    keys=[SourceKey(id="blue", name="Blue", hash="0" * 64, created=0)],
    **STAMPS,
)


@dataclass
class Record:
    timestamp: int
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    offset: int = 0
    key: bytes | None = None
    value: bytes | None = None


def test_a_delta_counts_what_became_of_each_record_and_when_keys_were_used() -> None:
    tally = Tally("raw.acme.app", SOURCE)
    good, better = Record(1000, [("headrace_key", b"blue")]), Record(3000, [("headrace_key", b"forged")])
    for record in (good, better, Record(2000), Record(4000)):
        tally.see(record)
    tally.accept(better)
    tally.accept(good)
    tally.reject("shape")
    tally.drop("consent")
    key, value = tally.record()
    assert key == b"acme.app"
    assert Activity.model_validate_json(value) == Activity(
        partner="acme",
        source="app",
        accepted=2,
        rejected={"shape": 1},
        dropped={"consent": 1},
        last=4000,
        accepted_last=3000,
        keys={"blue": 1000},
    )


def test_a_source_without_keys_counts_none() -> None:
    tally = Tally("raw.acme.app", SOURCE.model_copy(update={"keys": []}))
    tally.see(Record(1000, [("headrace_key", b"blue")]))
    assert Activity.model_validate_json(tally.record()[1]).keys == {}
