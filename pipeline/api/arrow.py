"""Tables as Arrow IPC streams."""

from __future__ import annotations

import io

import pyarrow as pa

__all__ = ["MEDIA_TYPE", "stream"]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"


def stream(table: pa.Table) -> bytes:
    """All of it."""
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()
