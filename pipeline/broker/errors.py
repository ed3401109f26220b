"""What can go wrong between us and a broker, in words a person can act on."""

from __future__ import annotations

__all__ = ["BrokerError"]


class BrokerError(RuntimeError):
    """A broker cannot be had: the message says what failed, where, and what to do about it."""
