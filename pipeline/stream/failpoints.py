"""Failpoints: places where a test may end or freeze the process, to see what a crash just there leaves behind.

``HEADRACE_FAILPOINT=NAME:N[:ACTION]``: the N-th time that point NAME is passed, the process kills itself (``kill``,
the default: SIGKILL, as a power cut) or stops (``stop``: SIGSTOP, as a virtual machine that is paused). Unset, a point
costs one comparison. ``mid-write`` acts from another thread, a millisecond into the write that follows it.
"""

from __future__ import annotations

import os
import signal
import threading

__all__ = ["LAKE_POINTS", "LANE_POINTS", "SINK_POINTS", "passed"]

#: The steps of `pipeline.stream.lane` and its restore; those of `pipeline.lake.lane`; those of `pipeline.sinks.lane`.
LANE_POINTS = ("mid-batch", "after-send", "after-offsets", "after-commit", "mid-write", "after-write", "mid-restore")
LAKE_POINTS = ("lake-written", "lake-sent", "lake-committed", "lake-joined", "lake-rewritten")
SINK_POINTS = ("sink-read", "sink-answered", "sink-logged", "sink-given-up", "sink-moved", "sink-committed")
_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_MID_SECONDS = 0.001


def _parse(text: str) -> tuple[str, int, signal.Signals]:
    name, _, rest = text.partition(":")
    count, _, action = rest.partition(":")
    action = action or "kill"
    names = (*LANE_POINTS, *LAKE_POINTS, *SINK_POINTS)
    if name not in names or not count.isdigit() or int(count) < 1 or action not in _ACTIONS:
        raise ValueError(
            f"HEADRACE_FAILPOINT={text}: wants NAME:N[:ACTION], NAME one of {', '.join(names)}, "
            f"N from 1, ACTION one of {', '.join(_ACTIONS)}"
        )
    return name, int(count), _ACTIONS[action]


_setting = os.environ.get("HEADRACE_FAILPOINT")
_armed, _left, _signal = _parse(_setting) if _setting else ("", 0, signal.SIGKILL)


def passed(name: str) -> None:
    """Say that point ``name`` is passed; may not return."""
    global _left
    if name != _armed:
        return
    _left -= 1
    if _left == 0 and name == "mid-write":
        threading.Timer(_MID_SECONDS, os.kill, (os.getpid(), _signal)).start()
    elif _left == 0:
        os.kill(os.getpid(), _signal)
