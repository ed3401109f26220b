"""`headrace integrations`: the external tools of a partner."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Secret, Version, given, on, read_json, read_secret
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Integrations: the external tools that are told.")
RequireCheck = Annotated[
    bool, typer.Option("--require-check", help="save nothing where the tool says that the set-up is wrong")
]
_SETTINGS = "the tool's own settings as JSON; @FILE reads a file, - standard input; no secrets: they are shown"


@app.command("add")
def add(
    partner: Partner,
    name: Annotated[str, typer.Argument(help="its name, for people")],
    kind: Annotated[str, typer.Option(help="which tool, e.g. webhook")] = "webhook",
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    settings: Annotated[str | None, typer.Option(help=_SETTINGS)] = None,
    secret: Secret = False,
    require_check: RequireCheck = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Connect a tool, and make its topics. The tool is asked whether that is right. Rules say what it is sent."""
    fields = given(id=id, settings=read_json(settings, "--settings"), secret=read_secret(secret))
    body, query = {"name": name, "kind": kind} | fields, _query(require_check)
    _print(Client(api).add("partners", partner, "integrations", body=body, **query), json)


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
    require_check: RequireCheck = False,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. Settings are replaced whole; the tool is asked whether they are right."""
    body = given(name=name, settings=read_json(settings, "--settings"), secret=read_secret(secret))
    where, query = ("partners", partner, "integrations", integration), _query(require_check)
    _print(Client(api).edit(*where, body=body, version=version, **query), json)


@app.command("status")
def status(partner: Partner, integration: Name, api: Api = None, json: Json = False) -> None:
    """Whether the tool is called, and if not, why; since when it does nothing but fail."""
    print_entity(Client(api).get("partners", partner, "integrations", integration, "state"), json)


@app.command("check")
def check(partner: Partner, integration: Name, api: Api = None, json: Json = False) -> None:
    """Ask the tool whether the set-up is right, with a request that tells it of nobody."""
    found = Client(api).add("partners", partner, "integrations", integration, "check", body={})
    print_entity(found, json)
    if found["ok"] is False:
        raise typer.Exit(1)


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


def _query(require_check: bool) -> dict[str, str]:
    return {"require_check": "true"} if require_check else {}


def _print(made: dict[str, Any], json: bool) -> None:
    """What was saved, and loudly where the tool does not take it."""
    checked = made.get("check") or {}
    if json:
        print_entity(made, json)
        return
    print_entity({key: value for key, value in made.items() if key != "check"}, json)
    if checked.get("ok") is False:
        typer.secho(f"Saved, but the tool does not take it: {checked['detail']}", fg="red", err=True)
    elif checked:
        typer.echo(f"Asked the tool: {checked['detail']}", err=True)
