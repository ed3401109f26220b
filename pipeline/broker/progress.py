"""Showing a start's progress to a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from pipeline.broker.jars import Report

__all__ = ["shown"]


@contextmanager
def shown(console: Console | None = None) -> Iterator[Report]:
    """A report for ``EmbeddedBroker.start``: bars on a terminal, a line a stage elsewhere (standard error)."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    download = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        transient=True,
    )
    waiting = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    )
    tasks: dict[str, TaskID] = {}
    current: Progress | None = None

    def report(stage: str, done: int, total: int) -> None:
        nonlocal current
        wanted = download if total else waiting
        if wanted is not current:
            # One live display at a time is all that a console takes.
            if current is not None:
                current.stop()
            wanted.start()
            current = wanted
        if stage not in tasks:
            for task in wanted.task_ids:
                wanted.update(task, visible=False)
            tasks[stage] = wanted.add_task(stage, total=total or None)
        wanted.update(tasks[stage], completed=done)

    try:
        yield report
    finally:
        if current is not None:
            current.stop()


def _lines(console: Console) -> Report:
    told: set[str] = set()

    def report(stage: str, _done: int, total: int) -> None:
        if stage not in told:
            told.add(stage)
            size = f" ({total / 1e6:.0f} MB)" if total else ""
            console.print(f"{stage}{size} …", highlight=False)

    return report
