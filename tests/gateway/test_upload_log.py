"""What is done of an upload: intervals, however its parts come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.gateway.upload_log import Progress
from pipeline.models.upload import UploadHead, UploadPart

spans = st.tuples(st.integers(1, 60), st.integers(0, 15)).map(lambda span: (span[0], span[0] + span[1]))


@given(st.lists(spans, max_size=25), spans)
def test_done_is_the_union_and_missing_is_what_is_not_in_it(added, asked):
    progress, union, counted = Progress(), set(), 0
    for first, last in added:
        for start, end in progress.missing(first, last):
            rows = set(range(start, end + 1))
            assert not rows & union
            union |= rows
            counted += len(rows)
            progress.add(start, end, len(rows))
        progress.add(first, last, last - first + 1)  # again: nothing
    assert {row for start, end in progress.done for row in range(start, end + 1)} == union
    assert progress.done == sorted(progress.done)
    assert all(end + 1 < start for (_, end), (start, _) in zip(progress.done, progress.done[1:], strict=False))
    assert (progress.taken, progress.refused) == (counted, 0)
    missing = {row for start, end in progress.missing(*asked) for row in range(start, end + 1)}
    assert missing == set(range(asked[0], asked[1] + 1)) - union


def test_an_upload_is_complete_when_all_its_rows_are_done():
    progress = Progress()
    progress.apply(UploadHead(name="a.csv", at=1).to_json())
    progress.apply(UploadPart(first=1, last=10, taken=9, at=2).to_json())
    assert not progress.told("x").complete
    progress.apply(UploadHead(name="a.csv", rows=10, at=3).to_json())
    told = progress.told("x")
    assert (told.complete, told.rows, told.taken, told.refused, told.updated) == (True, 10, 9, 1, 3)
    empty = Progress()
    empty.apply(UploadHead(name="a.csv", rows=0, at=3).to_json())
    assert empty.told("x").complete
