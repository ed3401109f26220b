"""`headrace dead`: records on which our own code failed; redrive them once it is mended."""

from __future__ import annotations

import asyncio
import heapq
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.client import fail
from pipeline.cli.options import Json
from pipeline.cli.output import print_entity, print_list

if TYPE_CHECKING:
    from pipeline.stream.dead_letters import Choice, DeadLetter, DeadLetters, Header
    from pipeline.stream.redrive import Outcome

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Dead letters: records on which our own code failed, parked until it is mended."
)

_PLACE = "PARTITION@OFFSET"
Role = Annotated[str, typer.Argument(help="whose code failed: intake or fanout")]
Topic = Annotated[str | None, typer.Option(help="only records of this topic; * stands for any characters")]
Since = Annotated[str | None, typer.Option(help="only parked since: 2026-01-31T12:00:00Z, or 90m, 12h, 7d before now")]
Error = Annotated[str | None, typer.Option(help="only errors with this text in them")]
Lane = Annotated[int | None, typer.Option(min=0, help="only of this lane")]


@app.command("list")
def list_(
    role: Annotated[str | None, typer.Argument(help="whose code failed: intake or fanout; all when left out")] = None,
    topic: Topic = None,
    since: Since = None,
    error: Error = None,
    lane: Lane = None,
    all: Annotated[bool, typer.Option("--all", help="those too that were redriven")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="the newest so many")] = 100,
    json: Json = False,
) -> None:
    """The letters that wait, the newest last. `show` and `redrive` take the role and what stands under `letter`."""
    choice = _choice(topic=topic, since=since, error=error, lane=lane, redriven=all)
    rows, total = _run(_newest(role, choice, limit))
    if not json:
        rows = [row | {"parked": _moment(row["parked"])} for row in rows]
    columns = ["role", "letter", "parked", "topic", "offset", "error"] + ["redriven"] * all
    print_list(rows, columns, json, "No dead letter." if all else "No dead letter waits.")
    if total > len(rows) and not json:
        typer.echo(
            f"the newest {len(rows):,} of {total:,}: more with --limit, others with --topic or --error", err=True
        )


@app.command("show")
def show(
    role: Role,
    letter: Annotated[str, typer.Argument(metavar=_PLACE, help="as `headrace dead list` shows it")],
    json: Json = False,
) -> None:
    """One letter, whole: the record, the error, the traceback. In JSON, bytes are base64."""
    entity = _run(_whole(role, _place(letter), _base64 if json else _text))
    if json:
        print_entity(entity, True)
        return
    parts = {"value": entity.pop("value"), "traceback": _printable(entity.pop("traceback"))}
    print_entity(entity | {name: _moment(entity[name]) for name in ("parked", "appended")}, False)
    for name, text in parts.items():
        typer.echo(f"\n{name}:\n{'-' if text is None else text.rstrip()}")


@app.command("redrive")
def redrive(
    role: Role,
    which: Annotated[list[str] | None, typer.Argument(metavar=f"[{_PLACE}]...", help="these letters")] = None,
    all: Annotated[bool, typer.Option("--all", help="every letter that waits; narrowed by the options below")] = False,
    topic: Topic = None,
    since: Since = None,
    error: Error = None,
    lane: Lane = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Write the records of letters back to where they came from, once the code that failed on them is mended.

    A record goes to its topic and partition again, behind what is there by now. A letter is redriven once, whoever
    asks again; a record that fails again is parked again, in a new letter. Exit 1 if a record is lost: its letter
    could not hold it, and its topic does not either any more.
    """
    if bool(which) == all:
        raise typer.BadParameter("name letters, as `headrace dead list` shows them, or say --all", param_hint=_PLACE)
    if which and (topic, since, error, lane) != (None,) * 4:
        raise typer.BadParameter("--topic, --since, --error and --lane go with --all", param_hint=_PLACE)
    letters = {_place(text) for text in which} if which else None
    choice = _choice(topic=topic, since=since, error=error, lane=lane, letters=letters)
    waiting, until = _run(_survey(role, choice))
    total = waiting.total()
    if not total:
        typer.echo(f"No dead letter of {role} waits." if all else "Nothing to redrive.")
        return
    rows = [{"letters": count, "topic": topic, "error": error} for (topic, error), count in waiting.most_common(20)]
    print_list(rows, ["letters", "topic", "error"], False, "")
    if not (yes or dry_run):
        if not sys.stdin.isatty():
            fail("there is nobody to ask: say --yes, or --dry-run to see what would be done")
        typer.confirm(f"Redrive {total:,} of {role}?", abort=True)
    done = _run(_redrive(role, choice, until, total, dry_run))
    told = f"{done['would']:,} would be redriven" if dry_run else f"{done['redriven']:,} redriven"
    typer.echo(f"{told}, {done['lost']:,} lost." if done["lost"] else f"{told}.")
    if done["lost"]:
        raise typer.Exit(1)


def _run(main: Coroutine[Any, Any, Any]) -> Any:
    from aiokafka.errors import KafkaError

    from pipeline.stream.dead_letters import DeadLetterError

    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A producer that fails leaves futures behind that nobody awaits; what is to be told of it is told below.
        if not isinstance(context.get("exception"), KafkaError):
            loop.default_exception_handler(context)

    async def run() -> Any:
        asyncio.get_running_loop().set_exception_handler(complain)
        return await main

    try:
        return asyncio.run(run())
    except (DeadLetterError, KafkaError, OSError, ValueError) as error:
        fail(str(error) or type(error).__name__)


def _letters(role: str) -> DeadLetters:
    from pipeline.settings import KafkaSettings
    from pipeline.stream.dead_letters import DeadLetters

    return DeadLetters(KafkaSettings().kafka(), role)


def _choice(since: str | None, **conditions: Any) -> Choice:
    from pipeline.stream.dead_letters import Choice

    return Choice(since=None if since is None else _since(since), **conditions)


def _since(text: str) -> int:
    """Milliseconds since 1970 of a moment, or of a duration before now."""
    from pipeline.models.window import duration_ms

    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except ValueError:
        pass
    try:
        return int(datetime.now(UTC).timestamp() * 1000) - duration_ms(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 90m, 12h or 7d",
            param_hint="--since",
        ) from None


def _place(text: str) -> tuple[int, int]:
    partition, _, offset = text.partition("@")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise typer.BadParameter(
            f"{text!r} is no letter; one is such as 3@17, and `headrace dead list` shows which there are",
            param_hint=_PLACE,
        )
    return int(partition), int(offset)


def _moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(ms)


def _base64(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content).decode()


def _text(content: bytes | None) -> str | None:
    """For people: text where it is UTF-8, else base64."""
    if content is None:
        return None
    try:
        return _printable(content.decode())
    except UnicodeDecodeError:
        return f"base64 {b64encode(content).decode()}"


def _printable(text: str) -> str:
    """What came from outside must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


async def _newest(role: str | None, choice: Choice, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Rows of the newest letters, the newest last, and how many letters there are."""
    from pipeline.settings import KafkaSettings
    from pipeline.stream.dead_letters import roles

    newest: list[tuple[int, str, int, int, dict[str, Any]]] = []
    total = 0
    for each in [role] if role else await roles(KafkaSettings().kafka()):
        async with aclosing(_letters(each).list(choice)) as letters:
            async for found in letters:
                total += 1
                entry = (found.parked, each, *found.place[1:], _row(each, found) | {"redriven": found.redriven})
                (heapq.heappush if len(newest) < limit else heapq.heappushpop)(newest, entry)
    return [row for *_, row in sorted(newest, key=lambda entry: entry[:4])], total


def _row(role: str, found: DeadLetter) -> dict[str, Any]:
    return {
        "role": role,
        "letter": f"{found.place.partition}@{found.place.offset}",
        "lane": found.lane,
        "parked": found.parked,
        "topic": found.original.topic,
        "partition": found.original.partition,
        "offset": found.original.offset,
        "appended": found.timestamp,
        "error": found.error,
    }


async def _whole(role: str, place: tuple[int, int], written: Callable[[bytes | None], str | None]) -> dict[str, Any]:
    """All there is to know of a letter; its bytes as ``written`` gives them."""
    from pipeline.stream.dead_letters import Gone, Originals

    letters = _letters(role)
    found = await letters.find(*place)
    entity = _row(role, found)
    moved = await letters.moved(found)
    if moved is not None:
        entity |= {"redriven": _moment(moved[0]), "to": str(moved[1])}
    record: tuple[bytes | None, bytes | None, Sequence[Header]] = found.key, found.value, found.headers
    async with Originals(letters.kafka) as originals:
        try:
            record = await originals.read(found)
        except Gone as gone:
            entity["lost"] = str(gone)
    key, value, headers = record
    return entity | {
        "key": written(key),
        "headers": [[name, written(content)] for name, content in headers],
        "value": written(value),
        "traceback": found.traceback,
    }


async def _survey(role: str, choice: Choice) -> tuple[Counter[tuple[str, str]], Mapping[int, int]]:
    """How many letters wait, by topic and kind of error, and the end of what was looked at.

    What is parked later, a record that fails again among it, is not what the user agrees to.
    """
    letters = _letters(role)
    until = await letters.ends()
    waiting: Counter[tuple[str, str]] = Counter()
    missing = set(choice.letters or ())
    async with aclosing(letters.list(replace(choice, redriven=True), until)) as found:
        async for letter in found:
            missing.discard(letter.place[1:])
            if not letter.redriven:
                waiting[letter.original.topic, letter.error.partition("(")[0][:100]] += 1
            elif choice.letters is not None:
                typer.echo(f"{letter.place.partition}@{letter.place.offset} was redriven before.")
    if missing:
        names = ", ".join(f"{partition}@{offset}" for partition, offset in sorted(missing))
        fail(f"no letter at {names} in {letters.topic}; `headrace dead list {role}` shows which there are")
    return waiting, until


async def _redrive(role: str, choice: Choice, until: Mapping[int, int], total: int, dry_run: bool) -> Counter[str]:
    """Do it, and show how far it is; how many were redriven, would be, are lost."""
    from rich.console import Console
    from rich.progress import Progress

    from pipeline.stream.redrive import Redrive

    done: Counter[str] = Counter()
    console = Console(stderr=True, highlight=False, markup=False)
    run: AsyncGenerator[Outcome] = Redrive(_letters(role), choice, until, dry_run=dry_run).run()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("redriving", total=total)
        async with aclosing(run) as outcomes:
            async for outcome in outcomes:
                done[outcome.result] += 1
                progress.advance(task)
                if outcome.result == "lost":
                    place = outcome.letter.place
                    console.print(f"lost: {place.partition}@{place.offset}: {outcome.reason}", soft_wrap=True)
    return done
