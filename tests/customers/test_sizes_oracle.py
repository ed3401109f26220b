"""What lanes tell of sizes by the minute is what the transitions come to, through restarts and late timers."""

from __future__ import annotations

from collections import Counter

import orjson
import pyarrow as pa
from fanout_world import FanoutWorld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_contacts_oracle import on_the_wire, sent, state_of

from pipeline.lake.kinds import KINDS
from pipeline.models.event import WATERMARK_KEY
from pipeline.query.history import history

BEGIN = 1_790_000_000_000 // 3_600_000 * 3_600_000
MINUTE = 60_000
LANES = 2
DEFINITION = {
    "seen": {"event": "View", "window": {"rolling": "10m"}},
    "quiet": {"event": "View", "count": {"op": "=", "value": 0}, "window": {"rolling": "3m"}},
}
moves = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["View", "Buy"]), st.sampled_from([0, 9, 45, 61, 200, 1500, 3900])),
    min_size=1,
    max_size=20,
)


def sizes(world):
    """The lake's table of what was told."""
    kind = KINDS["segment_sizes"]
    decode = kind.decoder()
    tables = [
        kind.columns(decode, lane, [(n, value)])["acme"]
        for n, (lane, _, value) in enumerate(world.sent["segments.sizes"])
    ]
    return pa.concat_tables([kind.schema.empty_table(), *tables])


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves, st.randoms(use_true_random=False))
def test_sizes_are_what_the_transitions_come_to(moves, rng):
    world = FanoutWorld(state_of(DEFINITION), LANES, BEGIN)
    now = BEGIN
    for number, (user, name, seconds) in enumerate(moves):
        now += seconds * 1000
        tell(world, now)
        event = sent(number, {"user": f"acme|u|{user}"}, name) | {"time": now}
        world.send(f"acme|u|{user}", on_the_wire(event) | {"received": now})
        while rng.random() < 0.5:
            lane = rng.randrange(LANES)
            if rng.random() < 0.5:
                world.tick_once(lane)
            else:
                world.step(lane, "events", rng.randint(1, 3), forget=rng.random() < 0.2)
    world.drain()
    end = (now // 3_600_000 + 2) * 3_600_000
    tell(world, end)
    world.drain()
    world.tick()
    moved: Counter[tuple[str, str, int]] = Counter()
    for _, _, value in world.sent["segments.transitions"]:
        change = orjson.loads(value)
        moved[change["segment"], change["kind"], change["at"] // MINUTE] += 1
    told = sizes(world)
    for segment in DEFINITION:
        found = history(told, segment, "minute", BEGIN, end)
        (whole,) = [series for series in found.series if series.scope == "all"] or [None]
        size = 0
        for point in whole.points if whole else []:
            minute = point.at // MINUTE
            entered, left = moved[segment, "entered", minute], moved[segment, "left", minute]
            size += entered - left
            assert (point.adds, point.drops, point.customers) == (entered, left, size), (segment, minute)
        assert sum(number for (name, _, _), number in moved.items() if name == segment) == (
            whole.adds + whole.drops if whole else 0
        )


def tell(world, moment):
    """Intake is so far."""
    for lane in world.events:
        lane.append((WATERMARK_KEY, orjson.dumps({"received": {str(n): moment for n in range(LANES)}})))
