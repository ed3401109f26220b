"""The form that all benchmarks share (docs/architecture.md, "Benchmarks")."""

from __future__ import annotations

import asyncio
import statistics
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
from rich.console import Console
from rich.table import Table

from pipeline.control.log import ControlLog
from pipeline.models.control import Command

__all__ = ["ROUNDS", "Figure", "Round", "Row", "measure", "play", "report", "submit"]

Round = Callable[[], Awaitable[float]]
#: What the rows of a benchmark share.
Bench = TypeVar("Bench")
#: Of every benchmark, where no other number is asked for; what is quick about the quick forms is the rounds' length.
ROUNDS = 3


async def submit(control: ControlLog, partner: str, command: str, **data: Any) -> None:
    """A command that must be accepted."""
    made = Command(id=uuid.uuid4().hex, command=command, partner=partner, by="bench", data=data)
    verdict = await control.submit(made)
    if verdict.entity is None:
        raise RuntimeError(f"{command}: {verdict.detail}")


@dataclass
class Figure:
    """One row: ours and the peer's values round by round; times in seconds."""

    figure: str
    unit: str
    peer: str | None
    values: list[float] = field(default_factory=list)
    peer_values: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """As the JSON has it. ``ratio``: the median of the rounds' own ratios, so drift of the machine cancels."""
        value = statistics.median(self.values)
        ratios = [ours / theirs for ours, theirs in zip(self.values, self.peer_values, strict=False) if theirs]
        return {
            "figure": self.figure,
            "value": value,
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": statistics.median(self.peer_values) if self.peer_values else None,
            "ratio": statistics.median(ratios) if ratios else None,
            "rounds": len(self.values),
            "spread": [min(self.values), max(self.values)],
        }


async def measure(figure: Figure, ours: Round, peer: Round | None, rounds: int, console: Console) -> Figure:
    """Run ours and the peer in turn, ``rounds`` times, with progress."""
    for number in range(rounds):
        figure.values.append(await ours())
        if peer is not None:
            figure.peer_values.append(await peer())
        theirs = f", {figure.peer} {figure.peer_values[-1]:,.4g}" if peer is not None else ""
        console.print(f"  {figure.figure} {number + 1}/{rounds}: {figure.values[-1]:,.4g}{theirs} {figure.unit}")
        await asyncio.sleep(0)
    return figure


@dataclass(frozen=True)
class Row(Generic[Bench]):
    """A row of a table: ``measure`` gives ours and the peer's value, once a round, of what the rows share."""

    name: str
    figure: str
    unit: str
    peer: str | None
    measure: Callable[[Bench], Awaitable[tuple[float, float | None]]]


async def play(
    rows: Sequence[Row[Bench]], bench: Bench, rounds: int, console: Console, anew: Callable[[], None]
) -> list[Figure]:
    """Measure the rows in rounds; ``anew`` begins each: nothing of the one before is kept."""
    figures = {row.name: Figure(row.figure, row.unit, row.peer) for row in rows}
    for number in range(rounds):
        console.print(f"round {number + 1}/{rounds}")
        anew()
        # Every other round backwards, so that what drifts within a round cancels too.
        for row in rows if number % 2 == 0 else rows[::-1]:
            value, peer = await row.measure(bench)
            figures[row.name].values.append(value)
            if peer is not None:
                figures[row.name].peer_values.append(peer)
    return list(figures.values())


def report(figures: list[Figure], console: Console, file: Path | None) -> None:
    """Print the table; write the JSON where asked."""
    rows = [figure.row() for figure in figures]
    table = Table(title="median of the rounds; ratio = ours / peer, round by round")
    for column in ("figure", "value", "unit", "spread", "peer", "peer value", "ratio"):
        table.add_column(column, justify="left" if column in ("figure", "unit", "peer") else "right", overflow="fold")
    for row in rows:
        low, high = row["spread"]
        table.add_row(
            row["figure"],
            _shown(row["value"]),
            row["unit"],
            f"{_shown(low)} - {_shown(high)}",
            row["peer"] or "",
            "" if row["peer_value"] is None else _shown(row["peer_value"]),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        )
    console.print(table)
    if file is not None:
        file.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _shown(value: float) -> str:
    """Four figures, and no exponent for what is counted in thousands."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
