"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = ["moment", "print_entity", "print_list", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"

_TIMES = {
    "as_of",
    "coverage_from",
    "created",
    "first_seen",
    "last",
    "last_seen",
    "last_used",
    "since",
    "time",
    "updated",
}


def moment(ms: int) -> str:
    """Milliseconds since 1970, for people."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")


def sparkline(numbers: Sequence[int], width: int = 40) -> str:
    """Numbers as bars, from 0 up; the last of each part where there are more than ``width``."""
    step = max(1, -(-len(numbers) // width))
    shown = numbers[::-1][::step][::-1]
    most = max(shown, default=0) or 1
    return "".join(_BARS[round(number / most * (len(_BARS) - 1))] for number in shown)


def print_list(
    items: Sequence[dict[str, Any]],
    columns: Sequence[str],
    as_json: bool,
    empty: str,
    *,
    titles: Sequence[str] | None = None,
) -> None:
    """The items as a table of ``columns``, or as a JSON list.

    ``empty``: what to say of none. ``titles``: of the columns, where they are not their names.
    """
    if as_json:
        print(json.dumps(items, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not items:
        console.print(empty, markup=False)
        return
    table = Table(*map(escape, titles or columns), box=None, header_style="bold", pad_edge=False)
    for item in items:
        table.add_row(*(escape(_text(column, item.get(column))) for column in columns))
    console.print(table)


def print_entity(entity: dict[str, Any], as_json: bool) -> None:
    """One entity, a field a line, or as a JSON object."""
    if as_json:
        print(json.dumps(entity, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in entity.items():
        table.add_row(f"[bold]{name}[/bold]", escape(_text(name, value)))
    Console().print(table)


def _text(name: str, value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in _TIMES and isinstance(value, int):
        return moment(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
