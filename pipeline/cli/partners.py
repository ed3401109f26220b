"""`headrace partners`: the tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Partner, Version, given, on
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Partners: the tenants.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="its name, for people")],
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a partner. It brings its system source, Online Store."""
    print_entity(Client(api).add("partners", body={"name": name} | given(id=id)), json)


@app.command("list")
def list_(api: Api = None, json: Json = False) -> None:
    """All partners."""
    items = Client(api).get("partners")["items"]
    print_list(items, ["id", "name", "sending", "version"], json, "No partner yet; create one: headrace partners add")


@app.command("show")
def show(partner: Partner, api: Api = None, json: Json = False) -> None:
    """One partner."""
    print_entity(Client(api).get("partners", partner), json)


@app.command("edit")
def edit(
    partner: Partner,
    name: Annotated[str, typer.Option(help="its new name")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Rename it."""
    print_entity(Client(api).edit("partners", partner, body={"name": name}, version=version), json)


@app.command("switch")
def switch(
    partner: Partner,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Turn the master switch of dispatch: off, nothing is sent to any integration."""
    print_entity(Client(api).edit("partners", partner, body={"sending": on(state)}, version=version), json)
