"""`headrace event-types`: a partner's own event types."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Version, given, read_json
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Event types: what events of a name hold, beside the catalogue.")
_TYPE = "title, description, properties and required ones as JSON; @FILE reads a file, - standard input"


@app.command("add")
def add(
    partner: Partner,
    event: Annotated[str, typer.Argument(help="the event's name; `… *` for all that begin so")],
    type: Annotated[str, typer.Option(help=_TYPE)],
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Declare an event type. It goes before one of the same name in the catalogue."""
    body = {"event": event, "type": read_json(type, "--type")} | given(id=id)
    print_entity(Client(api).add("partners", partner, "event-types", body=body), json)


@app.command("list")
def list_(
    partner: Partner,
    catalogue: Annotated[bool, typer.Option("--catalogue", help="the shipped ones too")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """The partner's own event types."""
    query = {"catalogue": "true"} if catalogue else {}
    found = Client(api).get("partners", partner, "event-types", **query)
    own = [each | {"from": "partner"} for each in found["items"]]
    shipped = [{"event": event, "type": type, "from": "catalogue"} for event, type in found["catalogue"].items()]
    rows = [*own, *shipped]
    if not json:
        rows = [row | _told(row["type"]) for row in rows]
    columns = ["id", "event", "from", "title", "properties", "required", "version"]
    print_list(rows, columns, json, "No event type of its own; --catalogue shows the shipped ones.")


@app.command("show")
def show(partner: Partner, event_type: Name, api: Api = None, json: Json = False) -> None:
    """One event type."""
    print_entity(Client(api).get("partners", partner, "event-types", event_type), json)


@app.command("edit")
def edit(
    partner: Partner,
    event_type: Name,
    type: Annotated[str, typer.Option(help=_TYPE)],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Replace the type whole; the event's name is fixed."""
    body = {"type": read_json(type, "--type")}
    print_entity(Client(api).edit("partners", partner, "event-types", event_type, body=body, version=version), json)


@app.command("remove")
def remove(partner: Partner, event_type: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove it, for ever; one of the same name in the catalogue holds again."""
    print_entity(Client(api).remove("partners", partner, "event-types", event_type, version=version), json)


def _told(type: dict[str, Any]) -> dict[str, str]:
    return {
        "title": type["title"],
        "properties": ", ".join(type["properties"]),
        "required": ", ".join(type["required"]),
    }
