"""`headrace customers`: who they are, and what they did."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Partner, given
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Customers of a partner, by any of their identifiers.")
Customer = Annotated[str, typer.Argument(help="canonical id, user id, anonymous id, e-mail or phone")]


@app.command("show")
def show(partner: Partner, customer: Customer, api: Api = None, json: Json = False) -> None:
    """Identifiers, traits and memberships."""
    print_entity(Client(api).get("partners", partner, "customers", customer), json)


@app.command("timeline")
def timeline(
    partner: Partner,
    customer: Customer,
    source: Annotated[str | None, typer.Option(help="only of this source")] = None,
    channel: Annotated[str | None, typer.Option(help="only of this channel")] = None,
    name: Annotated[str | None, typer.Option(help="only events of this name")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """The newest events first, over all sources and channels, or of one."""
    query = given(source=source, channel=channel, name=name, limit=str(limit))
    found = Client(api).get("partners", partner, "customers", customer, "timeline", **query)
    print_list(found["items"], ["time", "name", "source", "channel", "properties"], json, "No event.")
