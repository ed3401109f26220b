"""Scopes: where a customer is counted, as bits of one integer.

A scope is ``*`` (all that the customer did), ``s:<source-id>`` (by that source's events alone) or
``c:<channel>`` (by that channel's alone). The universe of a source or channel is the customers *seen* there: a
customer has the scopes of its origins and no others. So ``not`` and ``= 0`` hold under ``s:app`` for customers who
were seen from ``app`` and did not do it there, not for everybody who never used it.

A condition is evaluated once for all scopes: a leaf gives the mask of scopes in which it holds, and ``all``,
``any`` and ``not`` are ``&``, ``|`` and ``all & ~mask``.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["EVERYWHERE", "Group", "Scopes", "scopes_of"]

EVERYWHERE = "*"
_MEMO = 1024

#: Scopes that see the same origins of a leaf: their mask, and those origins (``<source>|<channel>``) by source.
Group = tuple[int, tuple[tuple[str, ...], ...]]


class Scopes:
    """The scopes of one set of origins.

    ``names``: scope of each bit, ``*`` first, sources and channels in order. ``all``: mask of all bits; 0 for a
    customer never seen. ``of``: origin -> mask of the scopes that see it.
    """

    __slots__ = ("_groups", "_named", "all", "names", "of")

    def __init__(self, origins: tuple[str, ...]) -> None:
        pairs = [origin.split("|", 1) for origin in origins]
        sources = sorted({f"s:{source}" for source, _ in pairs})
        channels = sorted({f"c:{channel}" for _, channel in pairs})
        self.names: tuple[str, ...] = (EVERYWHERE, *sources, *channels) if origins else ()
        bit = {name: 1 << i for i, name in enumerate(self.names)}
        self.all = (1 << len(self.names)) - 1
        self.of = {f"{source}|{channel}": 1 | bit[f"s:{source}"] | bit[f"c:{channel}"] for source, channel in pairs}
        self._named: dict[int, tuple[str, ...]] = {0: (), self.all: self.names}
        self._groups: dict[tuple[str, ...], tuple[Group, ...]] = {}

    def named(self, mask: int) -> tuple[str, ...]:
        """The names of the scopes in ``mask``, always in the same order."""
        names = self._named.get(mask)
        if names is None:
            if len(self._named) >= _MEMO:
                self._named.clear()
            names = tuple(name for i, name in enumerate(self.names) if mask >> i & 1)
            self._named[mask] = names
        return names

    def groups(self, origins: tuple[str, ...]) -> tuple[Group, ...]:
        """The scopes that see any of ``origins``, those that see the same ones together."""
        groups = self._groups.get(origins)
        if groups is None:
            if len(self._groups) >= _MEMO:
                self._groups.clear()
            seen: dict[tuple[tuple[str, ...], ...], int] = {}
            for i in range(len(self.names)):
                by_source: dict[str, list[str]] = {}
                for origin in origins:
                    if self.of[origin] >> i & 1:
                        by_source.setdefault(origin.split("|", 1)[0], []).append(origin)
                if by_source:
                    key = tuple(tuple(inside) for inside in by_source.values())
                    seen[key] = seen.get(key, 0) | 1 << i
            groups = tuple((mask, key) for key, mask in seen.items())
            self._groups[origins] = groups
        return groups


@lru_cache(maxsize=4096)
def scopes_of(origins: tuple[str, ...]) -> Scopes:
    """The scopes of a customer seen from ``origins`` (``<source>|<channel>``); few sets of them occur."""
    return Scopes(origins)
