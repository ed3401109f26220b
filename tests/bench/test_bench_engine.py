"""The engine benchmark judges what contenders write: a figure of one that did another job would mean nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import pytest

from pipeline.bench.engine import ROWS
from pipeline.bench.engine_input import CHANNELS, PARTITIONS, Judge, Traffic, WrongOutput
from pipeline.stream.transaction import partition_for


class Record(NamedTuple):
    key: bytes
    value: bytes


Outputs = list[list[dict[str, Any]]]


def traffic(events: int = 2000) -> Traffic:
    made = Traffic(events, users=20)
    for number in range(events):
        made.order[partition_for(made.event(number)[0], PARTITIONS)].append(number)
    return made


def right(made: Traffic) -> Outputs:
    """What the job asks for, by partition."""
    counts: Counter[tuple[str, str]] = Counter()
    out: Outputs = []
    for order in made.order:
        out.append([])
        for number in order:
            event = orjson.loads(made.event(number)[1])
            channel = CHANNELS[event["source"]]
            counts[event["userId"], channel] += 1
            out[-1].append(event | {"channel": channel, "count": counts[event["userId"], channel]})
    return out


def judged(made: Traffic, outputs: Outputs, *, stateful: bool = True) -> int:
    judge = Judge(made, stateful)
    for partition, events in enumerate(outputs):
        judge.take(partition, [Record(e["userId"].encode(), orjson.dumps(e)) for e in events])
    return judge.end()


def test_events_are_of_500_bytes_and_of_many_customers_on_all_channels() -> None:
    made = Traffic(20_000, users=5000)
    sizes = [len(made.event(number)[1]) for number in range(2000)]
    assert 480 < min(sizes) <= max(sizes) < 530
    assert {CHANNELS[made.who(number)[1]] for number in range(2000)} == set(CHANNELS.values())
    assert len({made.who(number)[0] for number in range(20_000)}) > 4800


def test_right_output_is_taken_whole_or_as_far_as_it_goes() -> None:
    made = traffic()
    assert judged(made, right(made)) == made.events
    assert judged(made, [events[:100] for events in right(made)]) == 100 * PARTITIONS


WRONG: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "an event twice": lambda events: events.insert(60, dict(events[50])),
    "an event left out": lambda events: events.pop(50),
    "a count that misses one": lambda events: events[50].update(count=events[50]["count"] + 1),
    "counts out of order": lambda events: events.reverse(),
    "another channel": lambda events: events[50].update(channel="Fax"),
    "another key": lambda events: events[50].update(userId="user-0x"),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG.keys())
def test_wrong_output_is_refused(spoil: Callable[[list[dict[str, Any]]], object]) -> None:
    made = traffic()
    outputs = right(made)
    spoil(outputs[1])
    with pytest.raises(WrongOutput):
        judged(made, outputs)


def test_output_of_another_partition_is_refused() -> None:
    made = traffic()
    outputs = right(made)
    outputs[0], outputs[1] = outputs[1], outputs[0]
    with pytest.raises(WrongOutput):
        judged(made, [events[:100] for events in outputs], stateful=False)


def test_an_event_left_out_is_noticed_without_counts() -> None:
    made = traffic()
    outputs = right(made)
    outputs[2].pop(50)
    with pytest.raises(WrongOutput, match="missing"):
        judged(made, outputs, stateful=False)


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len({row.figure for row in ROWS}) == len(ROWS)
