"""The members of a segment with what is known of them: one table, as of one position of every partition."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.query.mirror import Look

__all__ = ["members_of"]


def members_of(look: Look, segment: str, scope: str, name: str | None) -> pa.Table:
    """In the order of their ids: customer, since, then the other columns of `customers`.

    ``scope``: ``all``; or ``source`` or ``channel``, of that ``name``.
    """
    members = look.members.filter((pc.field("segment") == segment) & (pc.field("scope") == scope))
    if name is not None:
        members = members.filter(pc.field("name") == name)
    members = members.select(["customer", "since"]).sort_by("customer")
    rows = pc.index_in(members["customer"], value_set=look.customers["customer"].combine_chunks())
    found = look.customers.drop_columns("customer").take(rows)
    for column in found.schema:
        members = members.append_column(column, found[column.name])
    return members
