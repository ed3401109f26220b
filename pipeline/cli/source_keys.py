"""`headrace sources keys`: the secret keys of a source."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Secret keys: several at a time, so that they can be rotated.")
_COLUMNS = ["id", "name", "created", "last_used"]


@app.command("add")
def add(
    partner: Partner,
    source: Name,
    name: Annotated[str, typer.Argument(help="for people: who has it")],
    api: Api = None,
    json: Json = False,
) -> None:
    """Make a secret key. It is shown now, and never again; the others stay."""
    made = Client(api).add("partners", partner, "sources", source, "keys", body={"name": name})
    print_entity(made, json)
    if not json:
        typer.echo("Keep it: only its hash is kept here. It is taken everywhere within 2 s.", err=True)


@app.command("list")
def list_(partner: Partner, source: Name, api: Api = None, json: Json = False) -> None:
    """The keys, and when each was last used."""
    print_list(Client(api).get("partners", partner, "sources", source, "keys")["items"], _COLUMNS, json, "No key.")


@app.command("revoke")
def revoke(
    partner: Partner,
    source: Name,
    key: Annotated[str, typer.Argument(metavar="KEY", help="the key's id, as `list` shows it")],
    api: Api = None,
    json: Json = False,
) -> None:
    """Refuse a key everywhere, within 2 s. Shows those that are left."""
    left = Client(api).take("partners", partner, "sources", source, "keys", key)["items"]
    print_list(left, _COLUMNS, json, "No key is left.")
