"""What the control log says of sources, compiled: each one's rules, made once per change of it."""

from __future__ import annotations

from pipeline.control.reducer import ControlState
from pipeline.events.event_types import EventTypes
from pipeline.events.rules import Rules
from pipeline.models.catalogue import catalogue
from pipeline.models.control import PartnerEventType

__all__ = ["Policies", "types_of"]


def types_of(state: ControlState, partner: str) -> EventTypes:
    """The partner's event types, and the shipped ones."""
    return EventTypes((each for each in state.event_types.values() if each.partner == partner), catalogue())


class Policies:
    """All sources, shared by the lanes of a process; compiled on first use after each change."""

    def __init__(self) -> None:
        self.offset = -1
        #: The raw topic of every source, switched off and removed ones too: what is written there is rejected.
        self.topics: set[str] = set()
        self._state = ControlState()
        self._sources: dict[str, tuple[str, str]] = {}
        self._rules: dict[str, Rules] = {}
        self._own: dict[str, list[PartnerEventType]] = {}
        self._types: dict[str, EventTypes] = {}

    def follow(self, state: ControlState) -> None:
        """Take what changed since the last call."""
        if state.offset == self.offset:
            return
        self.offset = state.offset
        self._state = state
        self._sources = {source.topic: where for where, source in state.sources.items()}
        if self._sources.keys() != self.topics:
            self.topics = set(self._sources)
        own: dict[str, list[PartnerEventType]] = {}
        for each in state.event_types.values():
            own.setdefault(each.partner, []).append(each)
        for partner in own.keys() | self._own.keys():
            if own.get(partner) != self._own.get(partner):
                self._types.pop(partner, None)
                for topic in [topic for topic in self._rules if topic.split(".", 2)[1] == partner]:
                    del self._rules[topic]
        self._own = own

    def of(self, topic: str) -> Rules | None:
        """The rules of a raw topic's source as of the last `follow`; None where no source has this topic."""
        where = self._sources.get(topic)
        if where is None:
            return None
        source = self._state.sources[where]
        known = self._rules.get(topic)
        if known is None or known.source is not source:
            known = self._rules[topic] = Rules(source, self._types_of(source.partner))
        return known

    def _types_of(self, partner: str) -> EventTypes:
        known = self._types.get(partner)
        if known is None:
            known = self._types[partner] = types_of(self._state, partner)
        return known
