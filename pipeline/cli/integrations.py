"""`headrace integrations`: the external tools of a partner."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Secret, Version, given, on, read_json, read_secret
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Integrations: the external tools that are told.")
_SETTINGS = "the tool's own settings as JSON; @FILE reads a file, - standard input; no secrets: they are shown"


@app.command("add")
def add(
    partner: Partner,
    name: Annotated[str, typer.Argument(help="its name, for people")],
    kind: Annotated[str, typer.Option(help="which tool, e.g. webhook")] = "webhook",
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    settings: Annotated[str | None, typer.Option(help=_SETTINGS)] = None,
    secret: Secret = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Connect a tool, and make its topics. Rules say what it is sent."""
    fields = given(id=id, settings=read_json(settings, "--settings"), secret=read_secret(secret))
    print_entity(Client(api).add("partners", partner, "integrations", body={"name": name, "kind": kind} | fields), json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's integrations."""
    items = Client(api).get("partners", partner, "integrations")["items"]
    print_list(items, ["id", "name", "kind", "enabled", "settings", "version"], json, "No integration.")


@app.command("show")
def show(partner: Partner, integration: Name, api: Api = None, json: Json = False) -> None:
    """One integration."""
    print_entity(Client(api).get("partners", partner, "integrations", integration), json)


@app.command("edit")
def edit(
    partner: Partner,
    integration: Name,
    name: Annotated[str | None, typer.Option(help="its new name")] = None,
    settings: Annotated[str | None, typer.Option(help=_SETTINGS)] = None,
    secret: Secret = False,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. Settings are replaced whole."""
    body = given(name=name, settings=read_json(settings, "--settings"), secret=read_secret(secret))
    print_entity(Client(api).edit("partners", partner, "integrations", integration, body=body, version=version), json)


@app.command("switch")
def switch(
    partner: Partner,
    integration: Name,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Switch it on or off."""
    body = {"enabled": on(state)}
    print_entity(Client(api).edit("partners", partner, "integrations", integration, body=body, version=version), json)


@app.command("remove")
def remove(partner: Partner, integration: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove it, once no rule uses it."""
    print_entity(Client(api).remove("partners", partner, "integrations", integration, version=version), json)
