"""`headrace sources grant|grants|revoke`: who may write straight to a source's topic."""

from __future__ import annotations

import json as json_
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner, read_secret
from pipeline.cli.output import print_list

if TYPE_CHECKING:
    from pipeline.stream.kafka import Kafka
    from pipeline.topics.grants import Grant

__all__ = ["grant", "grants", "revoke"]

Principal = Annotated[str, typer.Option(help="the Kafka user, one for each source; with --mtls a certificate's name")]
Apply = Annotated[bool, typer.Option("--apply", help="do it, on the Kafka of KAFKA_BOOTSTRAP_SERVERS")]
Mtls = Annotated[bool, typer.Option("--mtls", help="NAME is a certificate's, such as CN=till,O=Acme: no password")]


def grant(
    partner: Partner,
    source: Name,
    principal: Principal,
    do: Apply = False,
    mtls: Mtls = False,
    password: Annotated[
        bool, typer.Option("--password", help="ask for it, or read it from standard input; else one is made and shown")
    ] = False,
    new_password: Annotated[
        bool, typer.Option("--new-password", help="the user is there: give it another one")
    ] = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Let a Kafka user write to the source's topic, and do nothing else. Shows how; with --apply, does it."""
    from pipeline.topics.grants import GrantError, apply

    wanted = _grant(api, partner, source, principal, mtls)
    if not do:
        _show(wanted, wanted.commands(), json)
        return
    given = None if mtls else read_secret(password)
    try:
        made = apply(_kafka(), wanted, given, renew=new_password)
    except GrantError as error:
        fail(str(error))
    if json:
        typer.echo(json_.dumps({"binding": wanted.binding()} | ({"password": made} if made else {}), indent=2))
        return
    typer.echo(f"{wanted.principal} may write to {wanted.topic}, and nothing else.")
    if made:
        typer.echo(f"Its password, shown this once: {made}")


def revoke(
    partner: Partner,
    source: Name,
    principal: Principal,
    do: Apply = False,
    mtls: Mtls = False,
    api: Api = None,
    json: Json = False,
) -> None:
    """Take the right away again, and remove a user that has no other. Shows how; with --apply, does it."""
    from pipeline.topics.grants import GrantError
    from pipeline.topics.grants import revoke as take

    wanted = _grant(api, partner, source, principal, mtls)
    if not do:
        _show(wanted, wanted.undo(), json)
        return
    try:
        there = take(_kafka(), wanted)
    except GrantError as error:
        fail(str(error))
    if json:
        typer.echo(json_.dumps({"revoked": there}))
    elif there:
        typer.echo(f"{wanted.principal} may not write to {wanted.topic} any more.")
    else:
        typer.echo(f"{wanted.principal} had no right to {wanted.topic}.")


def grants(partner: Partner, source: Name, api: Api = None, json: Json = False) -> None:
    """Who may do what with the source's topic, as the Kafka of KAFKA_BOOTSTRAP_SERVERS has it."""
    from pipeline.topics.grants import GrantError, granted

    topic = Client(api).get("partners", partner, "sources", source)["topic"]
    try:
        rows = granted(_kafka(), topic)
    except GrantError as error:
        fail(str(error))
    print_list(rows, ["principal", "operation", "permission", "host"], json, f"Nobody is granted anything on {topic}.")


def _grant(api: str | None, partner: str, source: str, principal: str, mtls: bool) -> Grant:
    from pipeline.topics.grants import Grant, GrantError

    topic = Client(api).get("partners", partner, "sources", source)["topic"]
    try:
        return Grant(topic, principal, mtls)
    except GrantError as error:
        fail(str(error))


def _show(wanted: Grant, commands: list[str], json: bool) -> None:
    if json:
        typer.echo(json_.dumps({"binding": wanted.binding(), "commands": commands}, indent=2))
        return
    binding = wanted.binding()
    typer.echo("# " + " ".join(f"{name}={value}" for name, value in binding.items()))
    for command in commands:
        typer.echo(command)
    typer.echo("Nothing was changed: run these, or the same command with --apply.", err=True)


def _kafka() -> Kafka:
    from pipeline.settings import KafkaSettings

    try:
        return KafkaSettings().kafka()
    except ValueError as error:
        fail(str(error))
