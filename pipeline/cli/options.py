"""Options and arguments that the commands share, and how they are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import fail

__all__ = ["Api", "Json", "Name", "Partner", "Secret", "Version", "given", "on", "read_json", "read_secret"]

Api = Annotated[
    str | None, typer.Option("--api", help="address of the API; else HEADRACE_API, else http://127.0.0.1:8081")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Partner = Annotated[str, typer.Argument(help="id of the partner")]
Name = Annotated[str, typer.Argument(metavar="ID", help="its id")]
Version = Annotated[
    int | None, typer.Option(help="the version that your change is made on; the present one when left out")
]
Secret = Annotated[
    bool, typer.Option("--secret", help="ask for the secret, or read it from standard input when that is no terminal")
]


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


def on(state: str) -> bool:
    """``on`` or ``off``. Anything else is a usage error."""
    if state not in ("on", "off"):
        raise typer.BadParameter("say on or off", param_hint="STATE")
    return state == "on"


def read_json(text: str | None, what: str) -> Any:
    """JSON as given, from ``@file``, or from standard input for ``-``; None stays None."""
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        fail(f"{what}: {error.filename}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        fail(f"{what} is no JSON: {error}")


def read_secret(wanted: bool) -> str | None:
    """A secret that appears neither among the arguments nor on the screen; None when not wanted.

    From standard input it may have several lines: several secrets that count during a rotation.
    """
    if not wanted:
        return None
    secret = typer.prompt("Secret", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().strip("\r\n")
    return str(secret) or fail("no secret was given")
