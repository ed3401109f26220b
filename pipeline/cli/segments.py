"""`headrace segments`: the segments of a partner."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner, Version, given, on, read_json
from pipeline.cli.output import moment, print_entity, print_list, sparkline

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Segments: named conditions on customers, counted at all times.")


class FileFormat(StrEnum):
    """Of an export."""

    csv = "csv"
    parquet = "parquet"
    arrow = "arrow"


class Step(StrEnum):
    """Of a history."""

    minute = "minute"
    hour = "hour"
    day = "day"


_CONDITION = "the condition as JSON; @FILE reads a file, - standard input"


@app.command("add")
def add(
    partner: Partner,
    name: Annotated[str, typer.Argument(help="its name, for people")],
    condition: Annotated[str, typer.Option(help=_CONDITION)],
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    description: Annotated[str | None, typer.Option(help="a note for people")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a segment; it counts what was before it as well, once that is read."""
    body = {"name": name, "condition": read_json(condition, "--condition")} | given(id=id, description=description)
    _print(Client(api).add("partners", partner, "segments", body=body), json)


@app.command("preview")
def preview(
    partner: Partner,
    condition: Annotated[str, typer.Option(help=_CONDITION)],
    api: Api = None,
    json: Json = False,
) -> None:
    """Try a condition: how many customers it holds for, and some of them. Nothing is saved."""
    body = {"condition": read_json(condition, "--condition")}
    found = Client(api).add("partners", partner, "segments", "preview", body=body)
    if not json and found["margin"]:
        found["customers"] = f"about {found['customers']:,}, give or take {found.pop('margin'):,}"
    print_entity(found, json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's segments."""
    items = Client(api).get("partners", partner, "segments")["items"]
    print_list(items, ["id", "name", "archived", "since", "version"], json, "No segment.")


@app.command("show")
def show(partner: Partner, segment: Name, api: Api = None, json: Json = False) -> None:
    """One segment."""
    _print(Client(api).get("partners", partner, "segments", segment), json)


@app.command("export")
def export(
    partner: Partner,
    segment: Name,
    source: Annotated[str | None, typer.Option(help="only who counts for this source")] = None,
    channel: Annotated[str | None, typer.Option(help="only who counts for this channel")] = None,
    format: Annotated[FileFormat, typer.Option(help="of the file")] = FileFormat.csv,
    out: Annotated[Path | None, typer.Option(help="file to write; standard output when left out")] = None,
    api: Api = None,
) -> None:
    """All members with identifiers and traits, as of one moment."""
    path = ("partners", partner, "segments", segment, "export")
    content = Client(api).fetch(*path, format=format.value, **given(source=source, channel=channel))
    if out is not None:
        out.write_bytes(content)
    elif format is not FileFormat.csv and sys.stdout.isatty():
        fail(f"{format.value} is no text: name a file with --out")
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


@app.command("edit")
def edit(
    partner: Partner,
    segment: Name,
    name: Annotated[str | None, typer.Option(help="its new name")] = None,
    condition: Annotated[str | None, typer.Option(help=_CONDITION)] = None,
    description: Annotated[str | None, typer.Option(help="a note for people")] = None,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. A new condition counts anew."""
    body = given(name=name, condition=read_json(condition, "--condition"), description=description)
    _print(Client(api).edit("partners", partner, "segments", segment, body=body, version=version), json)


@app.command("switch")
def switch(
    partner: Partner,
    segment: Name,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Off: archive it. On: bring it back."""
    body = {"archived": not on(state)}
    _print(Client(api).edit("partners", partner, "segments", segment, body=body, version=version), json)


@app.command("counts")
def counts(partner: Partner, segment: Name, api: Api = None, json: Json = False) -> None:
    """How many customers: in all, per source, per channel, and what the numbers are worth."""
    found = Client(api).get("partners", partner, "segments", segment, "counts")
    if json:
        print_entity(found, True)
        return
    rows = [{"scope": "all"} | found["total"]]
    rows += [row | {"scope": f"source {row['name']}"} for row in found["by_source"]]
    rows += [row | {"scope": f"channel {row['name']}"} for row in found["by_channel"]]
    print_list(rows, ["scope", "customers", "identified", "anonymous"], False, "")
    print_entity({name: found[name] for name in ("as_of", "complete", "coverage_from", "back_fill", "lag_ms")}, False)


@app.command("history")
def history(
    partner: Partner,
    segment: Name,
    by: Annotated[Step, typer.Option(help="a point for each; days are days of UTC")] = Step.hour,
    points: Annotated[bool, typer.Option("--points", help="every point of the whole segment, in a table")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """How large it was, in all, per source, per channel; how many came and went."""
    found = Client(api).get("partners", partner, "segments", segment, "history", by=by.value)
    if json:
        print_entity(found, True)
        return
    if points:
        rows = [point for series in found["series"] if series["scope"] == "all" for point in series["points"]]
        rows = [point | {"at": moment(point["at"])} for point in rows]
        print_list(rows, ["at", "customers", "identified", "adds", "drops"], False, "Nothing is known yet.")
        return
    lines = [
        {
            "scope": "all" if series["name"] is None else f"{series['scope']} {series['name']}",
            "size": sparkline([point["customers"] for point in series["points"]]),
            "now": series["points"][-1]["customers"] if series["points"] else None,
            "adds": series["adds"],
            "drops": series["drops"],
            "volatility": series["volatility"],
        }
        for series in found["series"]
    ]
    print_list(lines, ["scope", "size", "now", "adds", "drops", "volatility"], False, "Nothing is known yet.")
    typer.echo(f"from {moment(found['from'])} to {moment(found['to'])}, by {by.value}", err=True)


@app.command("members")
def members(
    partner: Partner,
    segment: Name,
    source: Annotated[str | None, typer.Option(help="only who counts for this source id")] = None,
    channel: Annotated[str | None, typer.Option(help="only who counts for this channel")] = None,
    after: Annotated[str | None, typer.Option(help="go on after this customer")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """Who is in it, in order of customer id."""
    query = given(source=source, channel=channel, after=after, limit=str(limit))
    page = Client(api).get("partners", partner, "segments", segment, "members", **query)
    print_list(page["items"], ["customer", "since", "scopes"], json, "Nobody.")
    if page["next"] and not json:
        typer.echo(f"more: --after '{page['next']}'", err=True)


@app.command("overlap")
def overlap(
    partner: Partner,
    segment: Name,
    source: Annotated[str | None, typer.Option(help="of this source id alone")] = None,
    channel: Annotated[str | None, typer.Option(help="of this channel alone")] = None,
    with_segment: Annotated[str | None, typer.Option(help="compare with this segment; the same when left out")] = None,
    with_source: Annotated[str | None, typer.Option(help="compare with those of this source id alone")] = None,
    with_channel: Annotated[str | None, typer.Option(help="compare with those of this channel alone")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Two sources of a segment, or two segments, beside each other: only one, both, either."""
    query = given(source=source, channel=channel, with_segment=with_segment)
    query |= given(with_source=with_source, with_channel=with_channel)
    print_entity(Client(api).get("partners", partner, "segments", segment, "overlap", **query), json)


@app.command("explain")
def explain(
    partner: Partner,
    segment: Name,
    customer: Annotated[str, typer.Argument(help="canonical id, user id, anonymous id, e-mail or phone")],
    api: Api = None,
    json: Json = False,
) -> None:
    """Whether a customer is in it, since when, and because of which events."""
    found = Client(api).get("partners", partner, "segments", segment, "explain", customer)
    if json:
        print_entity(found, True)
        return
    why = found.pop("why")
    print_entity(found, False)
    _print_reason(why, 0)


def _print_reason(reason: dict[str, Any], depth: int) -> None:
    mark = "yes" if reason["holds"] else "no "
    until = "" if reason["until"] is None else f", until {moment(reason['until'])}"
    typer.echo(f"{'  ' * depth}{mark} {reason['says'].removeprefix('Customers who ')}{until}")
    for event in reason["because"]:
        typer.echo(f"{'  ' * depth}      {moment(event['time'])}  {event['source']}  {event['id'] or 'on that day'}")
    for part in reason["parts"]:
        _print_reason(part, depth + 1)


@app.command("remove")
def remove(partner: Partner, segment: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove it, for ever."""
    _print(Client(api).remove("partners", partner, "segments", segment, version=version), json)


def _print(segment: dict[str, Any], as_json: bool) -> None:
    remarks = segment.pop("remarks", [])
    for remark in remarks:
        typer.echo(f"{remark['level']}: {remark['message']} (at {remark['path']})", err=True)
    print_entity(segment, as_json)
