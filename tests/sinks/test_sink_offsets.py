"""The offset tracker against a plain model: what is committed, what a restart repeats."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sinks.offsets import MAX_SPAN, OffsetTracker

_gaps = st.lists(st.integers(1, 4), min_size=1, max_size=60)


def offsets(start: int, gaps: list[int]) -> list[int]:
    out = []
    for gap in gaps:
        start += gap
        out.append(start)
    return out


@given(start=st.integers(0, 2**40), gaps=_gaps, data=st.data())
def test_a_restart_repeats_what_was_unfinished_and_nothing_else(
    start: int, gaps: list[int], data: st.DataObject
) -> None:
    log = offsets(start, gaps)
    finished: set[int] = set()
    tracker = OffsetTracker(start)
    for _ in range(3):  # three processes, each taking over from what the one before committed
        count = data.draw(st.integers(0, len(log)))
        for offset in [o for o in log if o >= tracker.watermark][:count]:
            assert tracker.read(offset) == (offset not in finished)
            if offset not in finished and data.draw(st.booleans()):
                tracker.done(offset)
                finished.add(offset)
        watermark, metadata = tracker.snapshot()
        assert all(o in finished for o in log if o < watermark)
        tracker = OffsetTracker(watermark, metadata)
    left = [o for o in log if o >= tracker.watermark and tracker.read(o)]
    assert left == [o for o in log if o not in finished]


@given(gaps=_gaps, order=st.randoms(use_true_random=False))
def test_the_watermark_is_the_oldest_unfinished_whatever_the_order(gaps: list[int], order: object) -> None:
    log = offsets(0, gaps)
    tracker = OffsetTracker(0)
    for offset in log:
        assert tracker.read(offset)
    left = set(log)
    shuffled = list(log)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    for offset in shuffled:
        tracker.done(offset)
        left.discard(offset)
        assert tracker.watermark == min(left, default=log[-1] + 1)
    assert tracker.snapshot() == (log[-1] + 1, "")


@given(gaps=_gaps, data=st.data())
def test_what_is_adopted_is_committed_before_it_is_read(gaps: list[int], data: st.DataObject) -> None:
    log = offsets(0, gaps)
    done = data.draw(st.sets(st.sampled_from(log)))
    tracker = OffsetTracker(0)
    tracker.adopt(log, done)
    again = OffsetTracker(*tracker.snapshot())
    for one in (tracker, again):
        assert [o for o in log if o >= one.watermark and one.read(o)] == [o for o in log if o not in done]


def test_unfinished_records_that_retention_took_do_not_hold_the_watermark() -> None:
    tracker = OffsetTracker(0)
    for offset in range(5):
        tracker.read(offset)
    tracker.done(2)
    again = OffsetTracker(*tracker.snapshot())
    assert again.read(9)
    assert again.watermark == 9


def test_the_metadata_of_a_full_span_fits_a_commit() -> None:
    tracker = OffsetTracker(0)
    for offset in range(2 * MAX_SPAN + 100):
        tracker.read(offset)
    _, metadata = tracker.snapshot()
    assert len(metadata) < 4096


@given(st.text())
def test_metadata_that_is_not_ours_is_nothing(text: str) -> None:
    tracker = OffsetTracker(7, text)
    assert tracker.watermark == 7
    assert tracker.read(7)


def test_a_repeat_is_not_processed_twice() -> None:
    tracker = OffsetTracker(0)
    assert [tracker.read(0), tracker.read(0)] == [True, False]


def test_a_restart_may_always_read_again_what_its_predecessor_had_in_hand() -> None:
    """Else a lane that stopped with its span used up would never load the record that holds it up."""
    tracker = OffsetTracker(0)
    while tracker.span < MAX_SPAN:
        tracker.read(tracker.position)
    for offset in range(1, MAX_SPAN):
        tracker.done(offset)
    again = OffsetTracker(*tracker.snapshot())
    assert again.span < MAX_SPAN
    assert again.read(0)
    assert not any(again.read(offset) for offset in range(1, MAX_SPAN))
    assert again.span >= MAX_SPAN, "but no further while the oldest is in hand"
    again.done(0)
    assert again.span == 0


def test_a_long_look_back_leaves_room_to_read_what_was_adopted() -> None:
    tracker = OffsetTracker(0)
    tracker.adopt(range(2 * MAX_SPAN), {2 * MAX_SPAN - 1})
    assert tracker.span < MAX_SPAN
    assert [tracker.read(offset) for offset in (0, 1)] == [True, True]
    assert tracker.is_done(2 * MAX_SPAN - 1)


def test_what_a_commit_has_no_room_for_is_repeated() -> None:
    tracker = OffsetTracker(0)
    for offset in range(3 * MAX_SPAN):
        tracker.read(offset)
    for offset in range(1, 3 * MAX_SPAN, 2):
        tracker.done(offset)
    again = OffsetTracker(*tracker.snapshot())
    assert [again.read(offset) for offset in range(2 * MAX_SPAN)] == [o % 2 == 0 for o in range(2 * MAX_SPAN)]
    assert again.read(2 * MAX_SPAN + 1)
