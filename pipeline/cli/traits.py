"""`headrace traits`: traits that are computed of what customers did."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Version, given, read_json
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Traits computed of what customers did: total spend, RFM, last visit.")
_COMPUTATION = (
    'the computation as JSON: {"compute": "sum", "property": "total", "of": {"event": "Order Completed"}}; '
    "@FILE reads a file, - standard input"
)


@app.command("add")
def add(
    partner: Partner,
    name: Annotated[str, typer.Argument(help="its name, for people")],
    computation: Annotated[str, typer.Option(help=_COMPUTATION)],
    id: Annotated[str | None, typer.Option(help="for ever; made from the name when left out")] = None,
    description: Annotated[str | None, typer.Option(help="a note for people")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a computed trait; it is of what was before it as well, once that is read."""
    body = {"name": name, "computation": read_json(computation, "--computation")}
    body |= given(id=id, description=description)
    print_entity(Client(api).add("partners", partner, "traits", body=body), json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's computed traits, and how far they are."""
    items = Client(api).get("partners", partner, "traits")["items"]
    if not json:
        items = [each | {"compute": each["computation"]["compute"], **each["worth"]} for each in items]
    columns = ["id", "name", "compute", "back_fill", "complete", "as_of", "version"]
    print_list(items, columns, json, "No computed trait.")


@app.command("show")
def show(partner: Partner, trait: Name, api: Api = None, json: Json = False) -> None:
    """One computed trait."""
    print_entity(Client(api).get("partners", partner, "traits", trait), json)


@app.command("edit")
def edit(
    partner: Partner,
    trait: Name,
    name: Annotated[str | None, typer.Option(help="its new name")] = None,
    computation: Annotated[str | None, typer.Option(help=_COMPUTATION)] = None,
    description: Annotated[str | None, typer.Option(help="a note for people")] = None,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. A new computation is made anew."""
    body = given(name=name, computation=read_json(computation, "--computation"), description=description)
    print_entity(Client(api).edit("partners", partner, "traits", trait, body=body, version=version), json)


@app.command("remove")
def remove(partner: Partner, trait: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove it: its values go."""
    print_entity(Client(api).remove("partners", partner, "traits", trait, version=version), json)
