"""`headrace rules`: which event goes to which integration, and trying that."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner, Version, given, on, read_json
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Rules: which event goes to which integration.")
Restrictions = Annotated[
    str | None,
    typer.Option(help='JSON, all must hold: [{"property": "total", "values": [100]}]; @FILE or - read it'),
]
Filter = Annotated[
    str | None, typer.Option("--filter", help="a CEL expression that must be true: properties.total > 100.0")
]
Mapping = Annotated[
    str | None,
    typer.Option(help='JSON, field -> expression: {"value": "$.event.properties.total"}; @FILE or - read it'),
]
Properties = Annotated[str | None, typer.Option(help="of the event, as JSON; a sample of its type when left out")]
Prefix = Annotated[str | None, typer.Option(help="put before the event's name")]


@app.command("add")
def add(
    partner: Partner,
    event: Annotated[str, typer.Argument(help="name of the event")],
    integration: Annotated[str, typer.Argument(help="id of the integration")],
    id: Annotated[str | None, typer.Option(help="for ever; made from the event when left out")] = None,
    restrictions: Restrictions = None,
    filter: Filter = None,
    mapping: Mapping = None,
    prefix: Prefix = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a rule."""
    parsed = {"restrictions": read_json(restrictions, "--restrictions"), "mapping": read_json(mapping, "--mapping")}
    body = {"event": event, "integration": integration} | given(id=id, filter=filter, prefix=prefix, **parsed)
    _print(Client(api).add("partners", partner, "rules", body=body), json)


@app.command("list")
def list_(partner: Partner, api: Api = None, json: Json = False) -> None:
    """The partner's rules."""
    items = Client(api).get("partners", partner, "rules")["items"]
    columns = ["id", "event", "integration", "restrictions", "filter", "prefix", "enabled", "conflicts", "version"]
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
    filter: Filter = None,
    mapping: Mapping = None,
    prefix: Prefix = None,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. `--filter ""` and `--mapping {}` take them away."""
    parsed = {"restrictions": read_json(restrictions, "--restrictions"), "mapping": read_json(mapping, "--mapping")}
    body: dict[str, Any] = given(integration=integration, filter=filter, prefix=prefix, **parsed)
    _print(Client(api).edit("partners", partner, "rules", rule, body=body, version=version), json)


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


@app.command("events")
def events(
    partner: Partner,
    event: Annotated[str | None, typer.Argument(help="one event, with its payload and all its values")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Events that a rule may be of, and what of them can be restricted."""
    items = Client(api).get("partners", partner, "rule-events")["items"]
    if event is not None:
        found = next((each for each in items if each["event"] == event), None)
        if found is None:
            fail(f"no event {event!r} in the catalogue; a rule may be of it all the same, if one comes")
        print_entity(found, json)
        return
    shown = items if json else [each | {"restrictions": ", ".join(each["restrictions"])} for each in items]
    print_list(shown, ["event", "restrictions"], json, "No event.")


@app.command("preview")
def preview(
    partner: Partner,
    rule: Name,
    properties: Properties = None,
    customer: Annotated[str | None, typer.Option(help="user id, e-mail, phone, …; a sample when left out")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """The exact request that its tool would be sent. Nothing is sent."""
    body = {"rule": rule} | given(properties=read_json(properties, "--properties"), customer=customer)
    print_entity(Client(api).add("partners", partner, "rules", "preview", body=body), json)


@app.command("test")
def send_test(
    partner: Partner,
    rule: Name,
    email: Annotated[str | None, typer.Option(help="of a customer that there is")] = None,
    phone: Annotated[str | None, typer.Option(help="or its phone")] = None,
    properties: Properties = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Send a test event the whole real way, and show the request and what the tool said."""
    body = given(email=email, phone=phone, properties=read_json(properties, "--properties"))
    found = Client(api).add("partners", partner, "rules", rule, "test", body=body)
    print_entity(found, json)
    if found["outcome"] != "ok":
        raise typer.Exit(1)


@app.command("remove")
def remove(
    partner: Partner,
    rule: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Remove it, for ever."""
    if not yes:
        typer.confirm(f"Remove rule {rule} of {partner}, for ever?", abort=True)
    print_entity(Client(api).remove("partners", partner, "rules", rule, version=version), json)


def _print(made: dict[str, Any], json: bool) -> None:
    print_entity(made, json)
    if made.get("conflicts") and not json:
        others = ", ".join(made["conflicts"])
        typer.secho(f"It tells the tool of the same event as {others}: it may be told twice.", fg="yellow", err=True)
