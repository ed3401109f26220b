"""What the demo makes of the topics that it watches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pipeline.demo.partner import DemoPartner
from pipeline.demo.watch import Watch
from pipeline.stream.dead_letters import DeadLetter, Place, letter, marker
from pipeline.stream.kafka import Kafka


def test_a_dead_letter_is_an_error_and_the_marker_of_its_redrive_is_none() -> None:
    record = SimpleNamespace(offset=7, timestamp=1_790_000_000_000, key=b"k", value=b"v", headers=[])
    parked: Any = SimpleNamespace(
        topic="dead.fanout",
        partition=0,
        offset=0,
        value=letter("fanout", 0, "events", 0, record, KeyError("customer")),
    )
    body, _ = marker(DeadLetter.read(parked), Place("events", 0, 99))
    watch = Watch(Kafka("nowhere:9"), cast(DemoPartner, SimpleNamespace(id="demo")))
    watch._apply([parked, SimpleNamespace(topic="dead.fanout", value=body)])  # type: ignore[list-item]
    assert watch.dead == ["dead.fanout: KeyError('customer')"]
