"""Segments that are made of other segments, or look at computed traits: who names whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.models.control import Segment, Trait
from pipeline.models.segment import Condition, MemberLeaf, TraitLeaf, leaves_of, members_of
from pipeline.models.trait import COMPUTED

__all__ = ["MOST", "Segments", "above", "behind", "lookers", "users", "way", "wrong"]

#: Segments that one may be made of, all the way down.
MOST = 20
#: By (partner, id).
Segments = Mapping[tuple[str, str], Segment]


def way(segments: Segments, partner: str, start: str, end: str) -> list[str]:
    """Segments from ``start`` to ``end``, each made of the next; empty where there is no way."""
    ways, seen = [[start]], {start}
    while ways:
        found = ways.pop()
        if found[-1] == end:
            return found
        for name in _named(segments, partner, found[-1]):
            if name not in seen:
                seen.add(name)
                ways.append([*found, name])
    return []


def behind(segments: Segments, partner: str, start: str) -> set[str]:
    """``start`` and all that it is made of."""
    found, left = {start}, [start]
    while left:
        new = set(_named(segments, partner, left.pop())) - found
        found |= new
        left += new
    return found


def above(segments: Segments, partner: str, segment: str) -> list[str]:
    """All that are made of ``segment``, however far up; archived ones too, since they may come back."""
    names = [name for owner, name in segments if owner == partner and name != segment]
    return [name for name in names if segment in behind(segments, partner, name)]


def users(segments: Segments, segment: Segment) -> list[str]:
    """The segments that name ``segment`` and are not archived."""
    return [
        name
        for (partner, name), other in segments.items()
        if partner == segment.partner and not other.archived and segment.id in members_of(other.condition)
    ]


def lookers(segments: Iterable[Segment], trait: Trait) -> list[str]:
    """The segments that look at a computed trait and are not archived."""
    path = f"{COMPUTED}.{trait.id}"
    return [
        segment.id
        for segment in segments
        if segment.partner == trait.partner
        and not segment.archived
        and any(isinstance(leaf, TraitLeaf) and leaf.trait == path for _, leaf in leaves_of(segment.condition, "$"))
    ]


def wrong(
    segments: Segments, partner: str, segment: str, condition: Condition, root: str
) -> tuple[str, str, str] | None:
    """Code, sentence and path of what is wrong with the segments that the condition of ``segment`` names, or None.

    They are there, do not lead back, and neither it nor what is made of it becomes too long.
    """
    for at, leaf in leaves_of(condition, root):
        if not isinstance(leaf, MemberLeaf):
            continue
        named, path = leaf.segment, f"{at}.segment"
        if found := way(segments, partner, named, segment):
            return "cyclic", f"it would be made of itself: {' -> '.join([segment, *found])}", path
        other = segments.get((partner, named))
        if other is None or other.archived:
            return "invalid", f"the partner has no segment {named!r}, or it is archived", path
        below = behind(segments, partner, named)
        for name in [named, *above(segments, partner, segment)]:
            if len(below | behind(segments, partner, name)) > MOST:
                return "invalid", f"{name!r} would be made of more than {MOST} segments", path
    return None


def _named(segments: Segments, partner: str, name: str) -> list[str]:
    segment = segments.get((partner, name))
    return members_of(segment.condition) if segment else []
