"""A broker that stands still: it answers nothing, and its connections stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from pipeline.broker.embedded import EmbeddedBroker

__all__ = ["frozen"]


@contextmanager
def frozen(broker: EmbeddedBroker) -> Iterator[None]:
    """For the time of the block, with all its processes."""
    assert broker._process is not None
    parent = psutil.Process(broker._process.pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in family:
            process.resume()
