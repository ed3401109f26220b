"""What all lanes of a role share, and what the role does with a lane's records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from pipeline.stream.kafka import Kafka
from pipeline.stream.reader import Batch
from pipeline.stream.store import Table
from pipeline.stream.transaction import Transaction

__all__ = ["Guarantee", "LaneConfig", "Processor"]

log = logging.getLogger(__name__)

Guarantee = Literal["exactly_once", "at_least_once"]


class Processor(Protocol):
    """What a role does with a lane's records. One object a lane; all its state lives in tables.

    ``process`` and ``tick`` may read and write only through the transaction. ``reset`` is called before the
    first batch and whenever a transaction is dropped: forget everything remembered from tables.
    """

    def topics(self) -> set[str]:
        """The input topics, now; the lane reads its own partition of each."""

    async def process(self, batches: Sequence[Batch], txn: Transaction) -> None:
        """Apply records, each partition's in order."""

    def tick(self, now_ms: int, txn: Transaction) -> bool:
        """Work that time brings, after the input before it; True when more of it is due at once."""

    def reset(self) -> None:
        """Forget what was remembered from tables."""


class LaneConfig:
    """A role: its name, its topics' lanes, its tables, its guarantee.

    ``guarantee``: ``exactly_once`` (transactions), or ``at_least_once``: outputs may come twice after a crash, and a
    zombie is kept out by time alone (what took longer than a session is not written), while the state stays right;
    that needs a changelog that is written in one piece, so such a role has one changelog topic at most. Raises
    ValueError where it has more, and for two tables on one changelog.

    Times in seconds: ``stall`` (input that waits so long without anything moving is a failure of the process),
    ``budget`` (for the transaction at hand, when lanes are given up or the process stops).
    """

    def __init__(
        self,
        kafka: Kafka,
        app: str,
        role: str,
        lanes: int,
        *,
        tables: Sequence[Table] = (),
        store_dir: Path | None = None,
        guarantee: Guarantee = "exactly_once",
        standbys: int = 0,
        instance: str | None = None,
        max_records: int = 5000,
        frontier_ms: int | None = None,
        stall: float = 300.0,
        budget: float = 10.0,
        session: float = 10.0,
        recommit: float = 3600.0,
        on_dead_letter: Callable[[str], None] | None = None,
    ) -> None:
        changelogs = {table.changelog for table in tables if table.changelog}
        if guarantee == "at_least_once" and len(changelogs) > 1:
            raise ValueError(
                f"role {role} has {len(changelogs)} changelogs ({', '.join(sorted(changelogs))}), and at-least-once "
                "keeps only one consistent after a crash; use exactly-once"
            )
        named = [table.changelog for table in tables if table.changelog]
        if len(named) > len(changelogs):
            raise ValueError(f"role {role} has two tables on one changelog; a restore could not tell them apart")
        self.kafka = kafka
        self.app = app
        self.role = role
        self.lanes = lanes
        self.tables: Mapping[str, Table] = {table.name: table for table in tables}
        self.store_dir = store_dir
        self.guarantee: Guarantee = guarantee
        #: Copies of each lane's store that other members keep up to date.
        self.standbys = standbys if changelogs else 0
        #: A name that outlives the process (static membership, KIP-345); None: a new member each time.
        self.instance = instance
        #: Records a transaction takes at most: small ones are ruinous, 5,000 costs about 100 ms of one core.
        self.max_records = max_records
        #: How often, at most, `Lane.frontier` is established (ms); None: nobody asks for it.
        self.frontier_ms = frontier_ms
        self.stall = stall
        self.budget = budget
        #: After how long without a heartbeat a member is taken for dead.
        self.session = session
        #: How often offsets that did not move are committed again, so that none expires while its lane lives.
        self.recommit = recommit
        self.on_dead_letter = on_dead_letter or (lambda message: log.error("ALERT dead letter: %s", message))
        #: Offsets are kept under a group that nobody joins: a live one refuses commits of whoever is not its member.
        #: They expire like any others after a time without a commit (KIP-211); see ``recommit``.
        self.offsets_group = f"{app}-offsets"

    @property
    def exactly_once(self) -> bool:
        """Whether commits are Kafka transactions."""
        return self.guarantee == "exactly_once"
