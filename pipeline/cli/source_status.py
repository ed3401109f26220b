"""`headrace sources status`: how a source that is fetched for is doing."""

from __future__ import annotations

import json as json_module

import typer

from pipeline.cli.client import Client
from pipeline.cli.options import Api, Json, Name, Partner
from pipeline.cli.output import print_list

__all__ = ["status"]

_COLUMNS = ["number", "state", "since", "taken", "refused", "last", "lag", "process", "reason"]


def status(partner: Partner, source: Name, api: Api = None, json: Json = False) -> None:
    """Whether a queue, mailbox or folder is being read, and if not, why."""
    found = Client(api).get("partners", partner, "sources", source, "status")
    if json:
        print(json_module.dumps(found, ensure_ascii=False, indent=2))
        return
    reason = f": {found['reason']}" if found["reason"] else ""
    typer.echo(f"{found['source']} ({found['bridge']}): {found['state']}{reason}")
    if found["consumers"]:
        print_list(found["consumers"], _COLUMNS, False, "")
