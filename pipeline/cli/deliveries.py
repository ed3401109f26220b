"""`headrace deliveries`: what tools were told and said, and telling them again."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Partner, given
from pipeline.cli.output import moment, print_entity, print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Deliveries: what tools were told and said, and telling them again.")
Integration = Annotated[str, typer.Argument(help="id of the integration")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say how many it would be, and do nothing")]
Since = Annotated[str | None, typer.Option(help="2026-01-31T12:00:00Z, or ms since 1970")]
Until = Annotated[str | None, typer.Option(help="2026-01-31T12:00:00Z, or ms since 1970")]


@app.command("list")
def list_(
    partner: Partner,
    integration: Annotated[str | None, typer.Option(help="only to this one")] = None,
    customer: Annotated[str | None, typer.Option(help="only of this canonical id")] = None,
    rule: Annotated[str | None, typer.Option(help="only by this rule")] = None,
    outcome: Annotated[str | None, typer.Option(help="ok, transient, throttle, setup or invalid")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="the newest so many")] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """Attempts, the newest first."""
    query = given(integration=integration, customer=customer, rule=rule, outcome=outcome, since=since, until=until)
    items = Client(api).get("partners", partner, "deliveries", limit=str(limit), **query)["items"]
    if not json:
        items = [each | {"started": moment(each["started"])} for each in items]
    columns = ["started", "id", "integration", "customer", "name", "attempt", "outcome", "status", "detail"]
    print_list(items, columns, json, "Nothing was told.")


@app.command("show")
def show(
    partner: Partner,
    id: Annotated[str, typer.Argument(help="of the record, as `list` shows it")],
    api: Api = None,
    json: Json = False,
) -> None:
    """All attempts of one record, with requests and answers."""
    for each in Client(api).get("partners", partner, "deliveries", id)["items"]:
        print_entity(each, json)


@app.command("resend")
def resend(
    partner: Partner,
    id: Annotated[str, typer.Argument(help="of the record, as `list` shows it")],
    api: Api = None,
    json: Json = False,
) -> None:
    """Tell the tool of one record again, with the dedup key that it had."""
    print_entity(Client(api).add("partners", partner, "deliveries", id, "resend", body={}), json)


@app.command("replay")
def replay(
    partner: Partner,
    integration: Integration,
    since: Since = None,
    until: Until = None,
    customer: Annotated[str | None, typer.Option(help="only of this canonical id")] = None,
    rule: Annotated[str | None, typer.Option(help="only by this rule")] = None,
    name: Annotated[str | None, typer.Option(help="only events of this name, the prefix before it")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="records a second")] = 100.0,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Tell a tool again of what it was told in the last 7 days, with the dedup keys that it had."""
    client, where = Client(api), ("partners", partner, "integrations", integration, "replay")
    body: dict[str, Any] = given(since=since, until=until, customer=customer, rule=rule, name=name) | {"rate": rate}
    if dry_run or not yes:
        found = _all(client, where, body | {"dry_run": True, "limit": 100_000})
        if dry_run:
            print_entity(found, json)
            return
        typer.confirm(f"Tell {integration} again of {found['found']:,} records?", abort=True)
    print_entity(_all(client, where, body, tell=not json), json)


@app.command("undeliverable")
def undeliverable(
    partner: Partner,
    integration: Integration,
    reason: Annotated[str | None, typer.Option(help="invalid, exhausted or unreadable")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="the newest so many")] = 100,
    api: Api = None,
    json: Json = False,
) -> None:
    """What the tool never took, and why; `redrive` takes the ids."""
    path = ("partners", partner, "integrations", integration, "undeliverable")
    items = Client(api).get(*path, limit=str(limit), **given(reason=reason))["items"]
    if not json:
        items = [
            {"id": each["id"], "redriven": each["redriven"], "at": moment(each["undeliverable"]["at"])}
            | {name: each["undeliverable"][name] for name in ("reason", "detail")}
            | {"customer": ((each["undeliverable"]["dispatch"] or {}).get("customer") or {}).get("id")}
            for each in items
        ]
    print_list(items, ["id", "at", "customer", "reason", "detail", "redriven"], json, "It took everything.")


@app.command("redrive")
def redrive(
    partner: Partner,
    integration: Integration,
    ids: Annotated[list[str] | None, typer.Argument(help="as `undeliverable` shows them; all when left out")] = None,
    reason: Annotated[str | None, typer.Option(help="invalid, exhausted or unreadable")] = None,
    dry_run: DryRun = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Tell the tool again of what it never took; each once, however often this is run."""
    body = given(ids=ids or None, reason=reason) | {"dry_run": dry_run, "limit": 10_000}
    print_entity(Client(api).add("partners", partner, "integrations", integration, "redrive", body=body), json)


def _all(client: Client, where: tuple[str, ...], body: dict[str, Any], *, tell: bool = False) -> dict[str, Any]:
    """Ask until there is no more, in steps that a call can take."""
    total: dict[str, Any] = {"found": 0, "sent": 0, "before": 0, "lost": 0}
    after: dict[str, int] = {}
    while True:
        step = client.add(*where, body=body | {"after": after})
        total = {name: total[name] + step[name] for name in total}
        after = step["next"]
        if not after:
            return total
        if tell:
            typer.echo(f"{total['sent']:,} told again …", err=True)
