"""`headrace rules`: which event goes to which integration."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Version, given, on, read_json
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Rules: which event goes to which integration.")
Restrictions = Annotated[
    str | None,
    typer.Option(help='JSON, all must hold: [{"property": "total", "values": [100]}]; @FILE or - read it'),
]
Prefix = Annotated[str | None, typer.Option(help="put before the event's name")]


@app.command("add")
def add(
    partner: Partner,
    event: Annotated[str, typer.Argument(help="name of the event")],
    integration: Annotated[str, typer.Argument(help="id of the integration")],
    id: Annotated[str | None, typer.Option(help="for ever; made from the event when left out")] = None,
    restrictions: Restrictions = None,
    prefix: Prefix = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a rule."""
    fields = given(id=id, restrictions=read_json(restrictions, "--restrictions"), prefix=prefix)
    body = {"event": event, "integration": integration} | fields
    print_entity(Client(api).add("partners", partner, "rules", body=body), json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's rules."""
    items = Client(api).get("partners", partner, "rules")["items"]
    columns = ["id", "event", "integration", "restrictions", "prefix", "enabled", "version"]
    print_list(items, columns, json, "No rule.")


@app.command("show")
def show(partner: Partner, rule: Name, api: Api = None, json: Json = False) -> None:
    """One rule."""
    print_entity(Client(api).get("partners", partner, "rules", rule), json)


@app.command("edit")
def edit(
    partner: Partner,
    rule: Name,
    integration: Annotated[str | None, typer.Option(help="id of another integration")] = None,
    restrictions: Restrictions = None,
    prefix: Prefix = None,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays."""
    parsed = read_json(restrictions, "--restrictions")
    body: dict[str, Any] = given(integration=integration, restrictions=parsed, prefix=prefix)
    print_entity(Client(api).edit("partners", partner, "rules", rule, body=body, version=version), json)


@app.command("switch")
def switch(
    partner: Partner,
    rule: Name,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Switch it on or off."""
    body = {"enabled": on(state)}
    print_entity(Client(api).edit("partners", partner, "rules", rule, body=body, version=version), json)


@app.command("remove")
def remove(partner: Partner, rule: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove it, for ever."""
    print_entity(Client(api).remove("partners", partner, "rules", rule, version=version), json)
