"""A command line as `headrace` reads it, without running it: what documents and files say must exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.main import get_command

from pipeline.cli.main import app


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The parameters of the command. Raises what the command line would refuse: unknown commands, options, values."""
    command: Any = get_command(app)
    name, rest = "headrace", list(arguments)
    context = command.make_context(name, [], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, arguments
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    params: dict[str, Any] = command.make_context(name, rest, parent=context.parent).params
    return params
