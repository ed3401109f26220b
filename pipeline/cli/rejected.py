"""`headrace rejected`: input that broke its contract; mend it, and replay it."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Partner, given, read_json
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The rejected: input that broke its contract; mend it, and replay it.")

_PLACE = "PARTITION@OFFSET"
Source = Annotated[str | None, typer.Option(help="only of this source")]
Reason = Annotated[str | None, typer.Option(help="only for this reason")]
Since = Annotated[
    str | None, typer.Option(help="only rejected since: 2026-01-31T12:00:00Z, or 90m, 12h, 7d before now")
]
Until = Annotated[str | None, typer.Option(help="only rejected before")]
Text = Annotated[str | None, typer.Option(help="only with this text in the detail or in the bytes")]


@app.command("list")
def list_(
    partner: Partner,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="the newest so many")] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """The newest rejections, the newest first. `show` and `replay` take what stands under `id`."""
    client = Client(api)
    query = given(source=source, reason=reason, since=_moment(since), until=_moment(until), text=text)
    items: list[dict[str, Any]] = []
    before: str | None = None
    while len(items) < limit:
        some = str(min(1000, limit - len(items)))
        page = client.get("partners", partner, "rejected", limit=some, **query, **given(before=before))
        items += page["items"]
        before = page["before"]
        if before is None:
            break
    if not json:
        items = [item | {"at": _shown(item["at"])} for item in items]
    print_list(items, ["id", "at", "source", "reason", "path", "detail"], json, "Nothing was rejected.")
    if before is not None and not json:
        typer.echo(f"the newest {len(items):,}: more with --limit, others with --source, --reason or --text", err=True)


@app.command("show")
def show(
    partner: Partner,
    item: Annotated[str, typer.Argument(metavar=_PLACE, help="as `headrace rejected list` shows it")],
    api: Api = None,
    json: Json = False,
) -> None:
    """One rejection, with its bytes."""
    entity = Client(api).get("partners", partner, "rejected", item)
    if json:
        print_entity(entity, True)
        return
    value = entity.pop("value")
    encoded = entity.pop("value_base64")
    told = {name: _shown(entity[name]) for name in ("at", "received")}
    print_entity({name: each for name, each in (entity | told).items() if each is not None}, False)
    text = value if value is not None else f"base64 {encoded}" if encoded is not None else "-"
    typer.echo(f"\nvalue:\n{_printable(text)}")


@app.command("replay")
def replay(
    partner: Partner,
    which: Annotated[list[str] | None, typer.Argument(metavar=f"[{_PLACE}]...", help="these")] = None,
    all: Annotated[bool, typer.Option("--all", help="every one; narrowed by the options below")] = False,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    patch: Annotated[
        str | None, typer.Option(help="how they are mended: a list of operations as JSON, or @FILE (docs/events.md)")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=10_000, help="records a second")] = 500,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Write rejected records to their raw topics again, those that would be accepted now. Each is replayed once,
    whoever asks again. Exit 1 if one was refused again, or is lost.
    """
    if bool(which) == all:
        raise typer.BadParameter("name them, as `headrace rejected list` shows them, or say --all", param_hint=_PLACE)
    conditions = given(source=source, reason=reason, since=_moment(since), until=_moment(until), text=text)
    if which and conditions:
        raise typer.BadParameter("--source, --reason, --since, --until and --text go with --all", param_hint=_PLACE)
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            fail("there is nobody to ask: say --yes, or --dry-run to see what would be done")
        typer.confirm(f"Replay {'all that fit' if all else len(which or ())} of {partner}?", abort=True)
    order = conditions | given(items=which or None, patch=read_json(patch, "--patch"), dry_run=dry_run, rate=rate)
    items = _replay(Client(api), partner, order)
    counts = Counter(item["result"] for item in items)
    if json:
        print_list(items, [], True, "")
    else:
        rows = [item | {"becomes": _events(item)} for item in items]
        told = [row for row in rows if dry_run or row["result"] in ("refused", "lost")]
        if told:
            columns = ["id", "result", "reason", "path", "detail"] + ["becomes"] * dry_run
            print_list(told, columns, False, "")
        typer.echo(", ".join(f"{count:,} {_WORDS[result]}" for result, count in sorted(counts.items())) or "None fits.")
    if counts["refused"] or counts["lost"]:
        raise typer.Exit(1)


_WORDS = {
    "replayed": "replayed",
    "would": "would be replayed",
    "before": "replayed before",
    "refused": "refused again",
    "lost": "lost",
}


def _replay(client: Client, partner: str, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Call after call, until all are done."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    items: list[dict[str, Any]] = []
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} looked at"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=None)
        while True:
            answer = client.add("partners", partner, "rejected", "replay", body=order)
            items += answer["items"]
            progress.update(task, completed=len(items))
            if answer["after"] is None:
                return items
            order = order | {"after": answer["after"]}


def _events(item: dict[str, Any]) -> str:
    return ", ".join(f"{each['name']} of {_whose(each)}" for each in item["events"])


def _whose(event: dict[str, Any]) -> str:
    known = (event.get(name) for name in ("user_id", "anonymous_id", "email", "phone"))
    return next((text for text in known if text), "nobody")


def _moment(text: str | None) -> str | None:
    """As the API takes it: a duration before now as milliseconds since 1970; anything else as it is."""
    from pipeline.models.window import duration_ms

    if text is None:
        return None
    try:
        return str(int(datetime.now(UTC).timestamp() * 1000) - duration_ms(text))
    except ValueError:
        return text


def _shown(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(ms)


def _printable(text: str) -> str:
    """What came from outside must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
