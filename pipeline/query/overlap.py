"""Two groups of customers beside each other: who is in one, the other, both or either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from pipeline.models.base import Model
from pipeline.query.counts import Worth
from pipeline.query.reader import Reader

__all__ = ["Group", "Overlap", "overlap"]

_PAGE = 1000


class Group(Model):
    """Those who count for a segment under a scope: ``*``, ``s:<source>`` or ``c:<channel>``."""

    segment: str
    scope: str = "*"


class Overlap(Worth):
    """How many customers are in only one of the two groups, in both, in either; counted in the index of members.

    The worth is that of the worse of the two segments' numbers (see their counts).
    """

    a: Group
    b: Group
    only_a: int
    only_b: int
    both: int
    either: int


async def overlap(reader: Reader, partner: str, a: Group, b: Group, worth: Sequence[Worth]) -> Overlap:
    """Count them: both groups in the order of their ids, side by side, letting the loop go on between pages.

    ``worth``: of the two segments' numbers. Customers who move meanwhile are where they
    are when they are passed.
    """
    only_a = only_b = both = 0
    left, right = _ids(reader, partner, a), _ids(reader, partner, b)
    one, other = await anext(left, None), await anext(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one < other):
            only_a += 1
            one = await anext(left, None)
        elif one is None or other < one:
            only_b += 1
            other = await anext(right, None)
        else:
            both += 1
            one, other = await anext(left, None), await anext(right, None)
    return Overlap(
        a=a,
        b=b,
        only_a=only_a,
        only_b=only_b,
        both=both,
        either=only_a + only_b + both,
        **Worth.of_worst(worth).model_dump(),
    )


async def _ids(reader: Reader, partner: str, group: Group) -> AsyncIterator[bytes]:
    """Ids of the group's customers, as bytes: the order of the index."""
    after: str | None = None
    while True:
        # All of them, so that a page is a page of work however few count under the scope.
        rows, after = reader.members(partner, group.segment, scope=None, after=after, limit=_PAGE)
        for row in rows:
            if group.scope in row["scopes"]:
                yield row["customer"].encode()
        if after is None:
            return
        await asyncio.sleep(0)
