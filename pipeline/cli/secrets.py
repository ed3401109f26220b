"""`headrace secrets`: what the integrations' and sources' secrets are encrypted with."""

from __future__ import annotations

import asyncio

import typer

from pipeline.cli.client import fail

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Secrets: what those of integrations and sources are encrypted with.")


@app.callback()
def _several() -> None:
    """Commands stand below this one."""


@app.command("rotate")
def rotate() -> None:
    """Encrypt anew, with the first key of HEADRACE_SECRET_KEY, what older keys of it encrypted; then they can go."""
    from aiokafka.errors import KafkaError

    from pipeline.control.secrets import SecretError, Secrets, load_keys
    from pipeline.settings import KafkaSettings, Settings

    async def run() -> int:
        secrets = Secrets(KafkaSettings().kafka(), load_keys(Settings()))
        await secrets.start()
        try:
            return await secrets.rotate()
        finally:
            await secrets.stop()

    try:
        done = asyncio.run(run())
    except (SecretError, KafkaError, OSError, ValueError) as error:
        fail(str(error) or type(error).__name__)
    typer.echo(f"{done:,} encrypted anew; all are under the first key now, and the others can be dropped")
