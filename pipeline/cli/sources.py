"""`headrace sources`: the event sources of a partner."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import source_grants, source_keys, source_live, source_status, source_try, source_verify
from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner, Secret, Version, given, on, read_json, read_secret
from pipeline.cli.output import print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Event sources: where events come in.")
app.add_typer(source_keys.app, name="keys")
app.command("status")(source_status.status)
for command in (
    source_verify.verify,
    source_live.live,
    source_live.activity,
    source_grants.grant,
    source_grants.revoke,
    source_grants.grants,
):
    app.command(command.__name__)(command)
app.command("try")(source_try.try_)

Code = Annotated[str | None, typer.Option(help="what clients pass after `<partner>.`, unique in the partner")]
Domain = Annotated[str | None, typer.Option(help="the only domain that pages may send from, e.g. shop.example")]
Description = Annotated[str | None, typer.Option(help="a note for people")]
Settings = Annotated[
    str | None, typer.Option(help="the bridge's own settings: JSON, or @file; `GET /v1/bridges` has their schema")
]
Policy = Annotated[
    str | None, typer.Option(help="what it takes and keeps: JSON, or @file; it is replaced whole (docs/events.md)")
]
Channel = Annotated[str | None, typer.Option(help="Web, Mobile, CRM, Call Center, E-mail, Messenger, …")]


@app.command("add")
def add(
    partner: Partner,
    name: Annotated[str, typer.Argument(help="its name, for people")],
    id: Annotated[str | None, typer.Option(help="for ever, it names the topic; made from the name")] = None,
    code: Code = None,
    domain: Domain = None,
    description: Description = None,
    channel: Channel = None,
    bridge: Annotated[str | None, typer.Option(help="js, rest, kafka, queue-kafka, …; `GET /v1/bridges`")] = None,
    settings: Settings = None,
    policy: Policy = None,
    secret: Secret = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Create a source, and its topic."""
    fields = given(id=id, code=code, domain=domain, description=description, channel=channel, bridge=bridge)
    fields |= given(settings=read_json(settings, "--settings"), policy=read_json(policy, "--policy"))
    body = {"name": name} | fields | given(secret=read_secret(secret))
    print_entity(Client(api).add("partners", partner, "sources", body=body), json)


@app.command("list")
def list_(
    partner: Partner,
    removed: Annotated[bool, typer.Option("--removed", help="removed ones too")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """The partner's sources."""
    query = {"removed": "true"} if removed else {}
    items = Client(api).get("partners", partner, "sources", **query)["items"]
    columns = ["id", "name", "code", "domain", "channel", "bridge", "active", "version"]
    print_list(items, columns + ["removed"] * removed, json, "No source.")


@app.command("show")
def show(partner: Partner, source: Name, api: Api = None, json: Json = False) -> None:
    """One source, with the key that clients pass, its topic, and what it did."""
    client = Client(api)
    found = client.get("partners", partner, "sources", source)
    if not json:
        found |= source_live.summary(client.find("partners", partner, "sources", source, "activity"))
    print_entity(found, json)


@app.command("edit")
def edit(
    partner: Partner,
    source: Name,
    name: Annotated[str | None, typer.Option(help="its new name; the system source's is fixed")] = None,
    code: Code = None,
    domain: Annotated[str | None, typer.Option(help="its new domain; '' for none")] = None,
    description: Description = None,
    channel: Channel = None,
    settings: Settings = None,
    policy: Policy = None,
    secret: Secret = False,
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Change what is given; the rest stays. Events with an old code are refused from now on."""
    body = given(name=name, code=code, domain=domain, description=description, channel=channel)
    body |= given(settings=read_json(settings, "--settings"), policy=read_json(policy, "--policy"))
    body |= given(secret=read_secret(secret))
    print_entity(Client(api).edit("partners", partner, "sources", source, body=body, version=version), json)


@app.command("switch")
def switch(
    partner: Partner,
    source: Name,
    state: Annotated[str, typer.Argument(metavar="on|off")],
    version: Version = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Switch it on or off: the events of a source that is off are refused."""
    body = {"active": on(state)}
    print_entity(Client(api).edit("partners", partner, "sources", source, body=body, version=version), json)


@app.command("remove")
def remove(partner: Partner, source: Name, version: Version = None, api: Api = None, json: Json = False) -> None:
    """Remove a user-defined source, for ever."""
    print_entity(Client(api).remove("partners", partner, "sources", source, version=version), json)
