"""The command `headrace`. A command's module is imported when the command runs, so `--help` is quick."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

__all__ = ["COMMANDS", "app", "main"]

#: Name -> (where it is: a typer app, or a function that is one command; what ``--help`` says of it).
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("pipeline.cli.up:up", "Run everything on this machine: broker, topics, all roles."),
    "gateway": ("pipeline.cli.roles:gateway", "Run the HTTP edge."),
    "worker": ("pipeline.cli.roles:worker", "Run the Faust lanes: intake and fan-out."),
    "bridge": ("pipeline.cli.roles:bridge", "Run feeds: queues, mailboxes and folders that events are fetched from."),
    "sink": ("pipeline.cli.roles:sink", "Run delivery to external tools."),
    "lake": ("pipeline.cli.roles:lake", "Run the lake: events into Parquet files."),
    "postgres": ("pipeline.cli.roles:postgres", "Run the tables' copy in PostgreSQL."),
    "api": ("pipeline.cli.roles:api", "Run the admin and query API."),
    "partners": ("pipeline.cli.partners:app", "Partners: the tenants."),
    "sources": ("pipeline.cli.sources:app", "Event sources: where events come in."),
    "links": ("pipeline.cli.links:app", "Tracked links and e-mail opens."),
    "event-types": ("pipeline.cli.event_types:app", "Event types: what events of a name hold."),
    "segments": ("pipeline.cli.segments:app", "Segments: named conditions on customers."),
    "integrations": ("pipeline.cli.integrations:app", "Integrations: the external tools that are told."),
    "deliveries": ("pipeline.cli.deliveries:app", "Deliveries: what tools were told and said, and telling them again."),
    "traits": ("pipeline.cli.traits:app", "Traits computed of what customers did: total spend, RFM, last visit."),
    "mailings": ("pipeline.cli.mailings:app", "Mailings: a segment sent whole to an integration."),
    "rules": ("pipeline.cli.rules:app", "Rules: which event goes to which integration."),
    "customers": ("pipeline.cli.customers:app", "Customers: who they are and what they did."),
    "sql": ("pipeline.cli.sql:sql", "SQL over a partner's customers, members and counts."),
    "rejected": ("pipeline.cli.rejected:app", "The rejected: input that broke its contract; mend and replay it."),
    "crm": ("pipeline.cli.crm:app", "Customers of a CRM: upload files of them."),
    "secrets": ("pipeline.cli.secrets:app", "Secrets: what they are encrypted with."),
    "dead": ("pipeline.cli.dead:app", "Dead letters: records our own code failed on; redrive them."),
    "topics": ("pipeline.cli.topics:app", "topics.yaml against the cluster."),
    "schemas": ("pipeline.cli.schemas:app", "The published contracts, from the models."),
    "demo": ("pipeline.cli.demo:demo", "Show all of it at work: a shop, real traffic, live counts."),
    "bench": ("pipeline.cli.bench:bench", "Measure this machine, beside peers doing the same work."),
}


class _Lazy(TyperGroup):
    """Lists commands by `COMMANDS` alone, and imports the one that is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else TyperCommand(cmd_name, help=entry[1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _load(args[0]), rest


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    command = get_command(found)
    command.name = name
    return command


# Plain help: drawing it with rich takes longer to import than all the rest.
app = typer.Typer(cls=_Lazy, no_args_is_help=True, pretty_exceptions_show_locals=False, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {metadata.version('headrace')}")
        raise typer.Exit


@app.callback()
def headrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Event sources to counted segments and delivered notifications, in real time, on Apache Kafka."""


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
