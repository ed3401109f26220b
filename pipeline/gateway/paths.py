"""Every address that a tracking call comes to: Segment's own, and those of clients that speak its dialects."""

from __future__ import annotations

from pipeline.bridges.segment import KINDS

__all__ = ["CALLS"]

#: Path -> kind of call, a value of `KINDS`. Jitsu's pages post to ``/api/s/<type>``, its servers to
#: ``/api/s/s2s/<type>``; RudderStack's beacon posts to ``/beacon/v1/batch``.
CALLS: dict[str, str] = {f"/v1/{name}": kind for name, kind in KINDS.items()}
CALLS |= {f"/api/s/{door}{name}": kind for door in ("", "s2s/") for name, kind in KINDS.items()}
CALLS |= {f"/beacon/v1/{name}": KINDS[name] for name in ("batch", "b")}
