"""What people see: the live screen, and the table of checks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pipeline.demo.checks import Check
from pipeline.demo.partner import SEGMENTS, SOURCES
from pipeline.demo.receiver import Receiver
from pipeline.demo.watch import Watch

__all__ = ["check_table", "live_screen"]

_LINES = 6


def live_screen(shop: str, api: str, doing: str, watch: Watch, receiver: Receiver) -> RenderableType:
    """The whole screen as of now."""
    head = Text.assemble(
        ("Open the shop and click:  ", "bold"),
        (shop, f"bold green link {shop}"),
        ("    API  ", "dim"),
        (f"{api}/docs", f"cyan link {api}/docs"),
    )
    below = Table.grid(padding=(0, 1), expand=True)
    below.add_column(ratio=1)
    below.add_column(ratio=1)
    below.add_row(_transitions(watch), _received(receiver))
    return Group(
        head, _counts(watch), below, Text(doing, style="dim"), Text("Ctrl-C ends it; all is kept.", style="dim")
    )


def _counts(watch: Watch) -> Panel:
    sources = {"online-store": "Online Store"} | {source["id"]: source["name"] for source in SOURCES}
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("Segment")
    for title in ("Customers", "known", "anonymous", *sources.values()):
        table.add_column(title, justify="right")
    for segment, (name, _) in SEGMENTS.items():
        answer = watch.counts.get(segment)
        if answer is None:
            continue
        total = answer["total"]
        by_source = {row["name"]: str(row["customers"]) for row in answer["by_source"]}
        table.add_row(
            name,
            f"[bold]{total['customers']}[/]",
            str(total["identified"]),
            str(total["anonymous"]),
            *(by_source.get(source, "[dim]0[/]") for source in sources),
        )
    accepted = [str(watch.accepted[source]) for source in sources]
    table.add_section()
    table.add_row("[dim]Events taken[/]", f"[dim]{sum(watch.accepted.values())}[/]", "", "", *accepted)
    return Panel(table, title="Counts", subtitle=_worth(watch), border_style="green")


def _worth(watch: Watch) -> str:
    answers = list(watch.counts.values())
    times = [answer["as_of"] for answer in answers]
    if not times or None in times:
        return "not known yet"
    whole = "complete" if all(answer["complete"] for answer in answers) else "not complete yet"
    lag = max(answer["lag_ms"] for answer in answers)
    return f"as of {_clock(min(times))}, {whole}, {lag} ms behind, {sum(watch.rejected.values())} rejected"


def _transitions(watch: Watch) -> Panel:
    table = Table.grid(padding=(0, 1))
    for move in list(watch.latest)[-_LINES:]:
        sign = "[green]→ in [/]" if move["kind"] == "entered" else "[red]← out[/]"
        customer = escape(move["customer"].split("|", 1)[1].replace("|", " "))
        table.add_row(f"[dim]{_clock(move['at'])}[/]", sign, move["segment"], customer[:18], f"[dim]{move['cause']}[/]")
    return Panel(table, title=f"Transitions: {len(watch.transitions)}", height=_LINES + 2)


def _received(receiver: Receiver) -> Panel:
    table = Table.grid(padding=(0, 1))
    for row in receiver.received[-_LINES:]:
        mark = f"[red]✗ {escape(row.fault)}[/]" if row.fault else "[green]✓ signed[/]"
        customer = escape(row.customer.split("|", 1)[-1].replace("|", " "))
        table.add_row(mark, escape(row.name), customer[:18])
    return Panel(table, title=f"Webhooks received: {len(receiver.received)}", height=_LINES + 2)


def _clock(millis: int) -> str:
    return datetime.fromtimestamp(millis / 1000).strftime("%H:%M:%S")


def check_table(checks: Sequence[Check]) -> Table:
    """Each figure beside what was sent; what is wrong, in words."""
    table = Table(box=box.SIMPLE_HEAD, title="Every figure against what was sent")
    for title in ("Figure", "Sent", "Found", ""):
        table.add_column(title, overflow="fold")
    for one in checks:
        mark = f"[red]✗ {escape(one.wrong)}[/]" if one.wrong else "[green]✓[/]"
        table.add_row(escape(one.what), escape(one.expected), escape(one.found), mark)
    return table
