"""The order of one customer's records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.sinks.barrier import Item, KeyQueue


def queue(*items: Item[str]) -> KeyQueue[str]:
    made: KeyQueue[str] = KeyQueue()
    for item in items:
        made.add(item)
    return made


@given(st.lists(st.integers(0, 100), unique=True, min_size=1))
def test_the_head_is_the_smallest_origin_however_they_come(origins: list[int]) -> None:
    made = queue(*(Item(origin, None, 0, 0) for origin in origins))
    assert [item.origin for item in made] == sorted(origins)
    for origin in sorted(origins):
        assert made.head.origin == origin
        assert made.find(origin) is made.head
        made.remove(made.head)
    assert made.find(origins[0]) is None


def test_behind_a_head_in_the_dispatch_topic_nobody_is_moved() -> None:
    assert queue(Item(1, None, 0, 0, "a"), Item(2, None, 0, 0, "b"), Item(3, "5s", 1, 0, "c")).stragglers() == []


def test_behind_an_unread_head_all_that_were_read_are_moved() -> None:
    made = queue(Item(1, "5s", 1, 0), Item(2, None, 0, 0, "b"), Item(3, "5s", 1, 0, "c"), Item(4, "5s", 1, 0))
    assert [item.origin for item in made.stragglers()] == [2, 3], "3 stands before the head in the same topic"


def test_behind_a_head_that_was_read_those_of_other_topics_are_moved() -> None:
    made = queue(Item(1, "5m", 2, 0, "a"), Item(2, "5s", 1, 0, "b"), Item(3, "5m", 2, 0, "c"), Item(4, None, 0, 0, "d"))
    assert [item.origin for item in made.stragglers()] == [2, 4]


class Barrier(RuleBasedStateMachine):
    """Records appear, are read, fail over into a retry topic with those behind them, and finish from the head."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: KeyQueue[str] = KeyQueue()
        self.model: dict[int, Item[str]] = {}
        self.finished: list[int] = []

    @rule(origin=st.integers(0, 30), tier=st.sampled_from([None, "5s", "5m"]), read=st.booleans())
    def appear(self, origin: int, tier: str | None, read: bool) -> None:
        if origin in self.model:
            assert self.queue.find(origin) is self.model[origin]
            return
        item: Item[str] = Item(origin, tier, 0, 0, "x" if read else None)
        self.model[origin] = item
        self.queue.add(item)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def is_read(self, data: st.DataObject) -> None:
        self.model[data.draw(st.sampled_from(sorted(self.model)))].loaded = "x"

    @precondition(lambda self: self.model)
    @rule(tier=st.sampled_from(["5s", "5m"]))
    def head_fails(self, tier: str) -> None:
        head = self.queue.head
        head.tier, head.loaded = tier, None
        moved = self.queue.stragglers()
        assert [item.origin for item in moved] == sorted(o for o, i in self.model.items() if i.loaded is not None)
        for item in moved:
            item.tier, item.loaded = tier, None
        assert self.queue.stragglers() == [], "moved once, they lie behind the head"

    @precondition(lambda self: self.model)
    @rule()
    def head_succeeds(self) -> None:
        head = self.queue.head
        self.queue.remove(head)
        del self.model[head.origin]

    @invariant()
    def the_smallest_origin_is_the_head(self) -> None:
        assert [item.origin for item in self.queue] == sorted(self.model)
        assert len(self.queue) == len(self.model)
        if self.model:
            assert self.queue.head.origin == min(self.model)

    @invariant()
    def only_what_was_read_and_is_not_the_head_is_moved(self) -> None:
        if not self.model:
            return
        for item in (*self.queue.stragglers(), *self.queue.waiting()):
            assert item.loaded is not None
            assert item is not self.queue.head
        if self.queue.head.tier is None:
            assert self.queue.stragglers() == []
        assert all(item.tier is None for item in self.queue.waiting())


TestBarrier = Barrier.TestCase
