"""`headrace topics plan|apply`: topics.yaml against the cluster."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Compare topics.yaml with the cluster, and change what is safe.")


def _run(do: bool, as_json: bool) -> None:
    from aiokafka.errors import KafkaError

    from pipeline.control.log import ControlLog
    from pipeline.settings import KafkaSettings, Settings
    from pipeline.topics.apply import apply
    from pipeline.topics.plan import Plan, plan
    from pipeline.topics.spec import SpecError
    from pipeline.topics.wanted import wanted

    async def main() -> Plan:
        settings, kafka = Settings(), KafkaSettings().kafka()
        fixed = await plan(kafka, wanted(settings))
        if do:
            await apply(kafka, fixed)
        elif any(change.topic == "control" and change.action == "create" for change in fixed.changes):
            return fixed
        # The control log names the rest: a topic for every source and integration.
        control = ControlLog(kafka)
        await control.start()
        try:
            state = control.state
            everything = wanted(settings, state.sources.values(), state.integrations.values())
        finally:
            await control.stop()
        prefixes = ("raw.", "dispatch.", "dead.", "lanes.", "segments.")
        found = await plan(kafka, everything, prefixes=prefixes)
        if not do:
            return found
        await apply(kafka, found)
        # What was done to the fixed topics is no difference any more, and still has to be told.
        return found.model_copy(update={"changes": list(dict.fromkeys([*fixed.todo, *found.changes]))})

    try:
        found = asyncio.run(main())
    except (KafkaError, SpecError, ValueError, TimeoutError) as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(found.to_json().decode() if as_json else found.render())
    if found.refused:
        typer.echo(f"{len(found.refused)} differences are not safe to change; they stay.", err=True)
        raise typer.Exit(1)


@app.command("plan")
def show(json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Show what would change: + create, ~ set, ! refused with the reason, ? extra. Exit 1 if anything is refused."""
    _run(False, json)


@app.command("apply")
def change(json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Do the safe part of the plan: create topics, raise limits and retention. Exit 1 if anything is refused."""
    _run(True, json)
