"""Heads of requests that were read before: one that differs in nothing but its body's length is not read again."""

from __future__ import annotations

from pipeline.gateway.tracking import Asked

__all__ = ["Heads", "Peer"]

#: Heads remembered, and the longest of them: at most 8 MiB.
_HEADS, _LONGEST = 4096, 2048
_LENGTHS = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")

#: Who is at the other end of a connection: address, scheme.
Peer = tuple[str | None, str]


class Heads:
    """What was made of a head, by its bytes and the peer. Only what an HTTP parser has found good belongs here."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, Peer], tuple[Asked, bool]] = {}

    def find(self, head: bytes, peer: Peer) -> tuple[Asked, bool, int] | None:
        """The call, whether the connection stays, and the length of the body."""
        measured = _measured(head)
        if measured is None:
            return None
        before, behind, need = measured
        known = self._known.get((before, behind, peer))
        return None if known is None else (*known, need)

    def keep(self, head: bytes, peer: Peer, asked: Asked, stays: bool, need: int) -> None:
        """Remember a head whose body has ``need`` bytes."""
        measured = _measured(head)
        if measured is None or not measured[2] == need > 0:
            return
        if len(self._known) >= _HEADS:
            self._known.clear()
        self._known[measured[0], measured[1], peer] = asked, stays


def _measured(head: bytes) -> tuple[bytes, bytes, int] | None:
    """A head before and behind the number of its Content-Length, and that number.

    None where it is too long or not written as most do. No value of a header has a line break, so what stands behind
    one is a header's name. A second length stays in what is compared, and a parser takes no head that has two.
    """
    if len(head) > _LONGEST:
        return None
    for name in _LENGTHS:
        at = head.find(name)
        if at >= 0:
            at += len(name)
            end = head.find(b"\r", at)
            digits = head[at:end]
            return (head[:at], head[end:], int(digits)) if digits.isdigit() and len(digits) < 8 else None
    return None
