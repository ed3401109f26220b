"""What the control log says, compiled: each partner's segments, computed traits and rules, made once per change."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.control.reducer import ControlState
from pipeline.dispatch.mailing import CompiledMailing, going_on
from pipeline.dispatch.rules import RuleBook
from pipeline.models.control import Segment
from pipeline.models.trait import COMPUTED, computed_in
from pipeline.segments.compile import CompiledSegment, Program
from pipeline.segments.computed import CompiledTrait
from pipeline.segments.leaf import Leaf

__all__ = ["Compiled", "Definition", "Programs"]


class Definition(NamedTuple):
    """A segment or a computed trait, as far as its past is to be read and its customers to be looked at.

    ``id``: the segment's, or ``trait:`` and the trait's. ``since``: the moment (ms) when it, or what it is made of,
    went live as it is. ``traits``: the computed traits that it looks at, by the same ids: it is worth what they are.
    """

    id: str
    partner: str
    version: int
    since: int
    leaves: list[Leaf]
    traits: list[str]


class Compiled:
    """One partner's segments, computed traits and rules. ``definitions``: of segments and traits, by their ids."""

    __slots__ = ("definitions", "partner", "program", "rules", "segments")

    def __init__(self, partner: str, state: ControlState) -> None:
        self.partner = partner
        self.segments: dict[str, Segment] = {
            segment.id: segment
            for segment in state.segments.values()
            if segment.partner == partner and not segment.archived
        }
        traits = [trait for trait in state.traits.values() if trait.partner == partner]
        self.program = Program(self.segments.values(), traits)
        made: list[CompiledSegment | CompiledTrait] = [
            *self.program.segments.values(),
            *self.program.traits.values(),
        ]
        self.definitions = {each.id: _definition(partner, each, self.program) for each in made}
        tools = [tool for tool in state.integrations.values() if tool.partner == partner]
        rules = [rule for rule in state.rules.values() if rule.partner == partner]
        self.rules = RuleBook(state.partners.get(partner), rules, tools)


def _definition(partner: str, each: CompiledSegment | CompiledTrait, program: Program) -> Definition:
    paths = {leaf.trait for leaf in each.leaves if leaf.trait is not None}
    names = {computed_in(path) for path in paths}
    traits = [trait.id for trait in program.traits.values() if COMPUTED in paths or trait.name in names]
    return Definition(each.id, partner, each.version, each.since, each.leaves, traits)


class Programs:
    """All partners, shared by the lanes of a process; compiled on first use after each change."""

    def __init__(self) -> None:
        self.offset = -1
        self._state = ControlState()
        self._compiled: dict[str, Compiled] = {}
        #: Of all partners, those that may go on as of the last `refresh`.
        self.mailings: tuple[CompiledMailing, ...] = ()

    def refresh(self, state: ControlState) -> bool:
        """Follow the control log; True when it moved since the last call."""
        if state.offset == self.offset:
            return False
        self.offset = state.offset
        self._state = state
        self._compiled.clear()
        self.mailings = going_on(state.mailings.values(), state.partners, state.integrations)
        return True

    def of(self, partner: str) -> Compiled:
        """The partner's segments, traits and rules as of the last `refresh`."""
        compiled = self._compiled.get(partner)
        if compiled is None:
            compiled = self._compiled[partner] = Compiled(partner, self._state)
        return compiled

    def has_mailing(self, partner: str, mailing: str) -> bool:
        """Whether it is there, going on or not."""
        return (partner, mailing) in self._state.mailings

    def partners(self) -> list[str]:
        """All partner ids."""
        return list(self._state.partners)
