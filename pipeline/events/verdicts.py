"""How a record's judgement may end, other than in an event."""

from __future__ import annotations

__all__ = ["DropError", "RejectError"]


class RejectError(Exception):
    """The record breaks its contract: a code of `failures.REASONS`, what is wrong, where.

    ``withhold``: its bytes must not be kept, since its client refused that and the source honours it.
    """

    def __init__(self, reason: str, detail: str, path: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.path = path
        self.withhold = False


class DropError(Exception):
    """Nothing of the record is kept, as the source's policy has it: ``consent`` or ``ignored``."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
