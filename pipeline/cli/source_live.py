"""`headrace sources live` and `activity`: what comes in, as it comes and in figures."""

from __future__ import annotations

import json as json_
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner
from pipeline.cli.output import print_list
from pipeline.cli.tail import Tail

__all__ = ["activity", "live", "stage_line", "summary"]


def live(
    partner: Partner,
    source: Name,
    seconds: Annotated[float | None, typer.Option(help="stop after so long; else with Ctrl-C")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Watch events arrive, stage by stage, with milliseconds and the reason where one is rejected; like tail -f."""
    client = Client(api)
    with Tail(client, partner, source, seconds) as tail:
        if not json:
            typer.echo(f"Watching {partner}/{source}; what comes from now on is shown. Ctrl-C ends it.", err=True)
        try:
            for sighting in tail:
                typer.echo(json_.dumps(sighting, ensure_ascii=False) if json else stage_line(sighting))
        except KeyboardInterrupt:
            return
    if tail.end is not None:
        fail(tail.end)


def stage_line(sighting: dict[str, Any]) -> str:
    """One stage of one event, for people."""
    at = datetime.fromtimestamp(sighting["at"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    told = [at, f"{sighting['stage']:<8}", f"+{sighting['after_ms']} ms".rjust(9)]
    told += [str(sighting.get("name") or "-"), str(sighting.get("who") or "-"), sighting["id"]]
    if sighting.get("flags"):
        told.append("[" + ", ".join(sighting["flags"]) + "]")
    if sighting["stage"] == "rejected":
        where = f" at {sighting['path']}" if sighting.get("path") else ""
        told.append(f"{sighting['reason']}{where}: {sighting['detail']}")
    # Text of clients: nothing of it may move the cursor.
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in "  ".join(told))


def activity(
    partner: Partner,
    source: Annotated[str | None, typer.Argument(metavar="[ID]", help="one source; all when left out")] = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """What the sources did: last event, rates, rejections and why, when secret keys were last used."""
    client = Client(api)
    if source is None:
        items = client.get("partners", partner, "activity")["items"]
    else:
        items = [client.get("partners", partner, "sources", source, "activity")]
    if json:
        print_list(items if source is None else items[0], [], True, "")
        return
    print_list([_row(item) for item in items], list(_row(items[0])) if items else [], False, "No source.")


def summary(item: dict[str, Any] | None) -> dict[str, Any]:
    """A source's activity as fields of its own, for people; none where the API has none."""
    return {} if item is None else {name: text for name, text in _row(item).items() if name != "source"}


def _row(item: dict[str, Any]) -> dict[str, Any]:
    reasons = ", ".join(f"{each['reason']} {each['count']}" for each in item["reasons"])
    keys = ", ".join(f"{key['id']} {_ago(key['last_used']) if key['last_used'] else 'never'}" for key in item["keys"])
    return {
        "source": item["source"],
        "last event": _ago(item["last"]) if item["last"] else "-",
        "1 min /s": f"{item['minute']['rate']:g}",
        "1 h /s": f"{item['hour']['rate']:g}",
        "accepted 24 h": f"{item['day']['accepted']:,}",
        "rejected 24 h": f"{item['day']['rejected']:,} ({item['day']['reject_rate']:.1%})",
        "why": reasons,
        "keys used": keys,
    }


def _ago(moment: int) -> str:
    seconds = max(0, int(datetime.now(UTC).timestamp()) - moment // 1000)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
