"""`headrace mailings`: a segment sent whole to an integration."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Version, given
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Mailings: a segment sent whole to an integration.")
Rate = Annotated[int | None, typer.Option(min=1, help="customers a second; as fast as can be when left out")]


@app.command("add")
def add(
    partner: Partner,
    segment: Annotated[str, typer.Argument(help="id of the segment")],
    integration: Annotated[str, typer.Argument(help="id of the integration")],
    id: Annotated[str | None, typer.Option(help="for ever; made from the segment when left out")] = None,
    name: Annotated[str | None, typer.Option(help="of the event that the tool is told; Segment Member")] = None,
    rate: Rate = None,
    paused: Annotated[bool, typer.Option("--paused", help="it begins when it is resumed")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say how many it would be, and make nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Tell a tool of every member of a segment, once."""
    client = Client(api)
    body: dict[str, Any] = {"segment": segment, "integration": integration, "paused": paused}
    body |= given(id=id, name=name, rate=rate)
    where = ("partners", partner, "mailings")
    if dry_run or not yes:
        found = client.add(*where, body=body, dry_run="true")
        if dry_run:
            print_entity(found, json)
            return
        typer.confirm(f"Send {segment} ({found['customers']:,} customers now) to {integration}?", abort=True)
    print_entity(client.add(*where, body=body), json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's mailings, and how far they are."""
    items = Client(api).get("partners", partner, "mailings")["items"]
    if not json:
        items = [each | each["progress"] for each in items]
    columns = ["id", "segment", "integration", "rate", "paused", "sent", "looked_at", "done", "waits"]
    print_list(items, columns, json, "No mailing.")


@app.command("show")
def show(partner: Partner, mailing: Name, api: Api = None, json: Json = False) -> None:
    """One mailing."""
    print_entity(Client(api).get("partners", partner, "mailings", mailing), json)


@app.command("pause")
def pause(partner: Partner, mailing: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Stop it where it is."""
    _edit(partner, mailing, {"paused": True}, version, api, json)


@app.command("resume")
def resume(
    partner: Partner, mailing: Name, rate: Rate = None, version: Version = None, api: Api = None, json: Json = False
) -> None:
    """Go on where it was."""
    _edit(partner, mailing, {"paused": False} | given(rate=rate), version, api, json)


@app.command("remove")
def remove(partner: Partner, mailing: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """End it: whose turn has not come is not told."""
    print_entity(Client(api).remove("partners", partner, "mailings", mailing, version=version), json)


def _edit(partner: str, mailing: str, body: dict[str, Any], version: int | None, api: str | None, json: bool) -> None:
    print_entity(Client(api).edit("partners", partner, "mailings", mailing, body=body, version=version), json)
