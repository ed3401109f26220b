"""`headrace links`: tracked links, pixels, and whole e-mails rewritten."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.client import Client, fail
from pipeline.cli.options import Api, Json, Name, Partner, given
from pipeline.cli.output import print_list

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Tracked links and e-mail opens.")

Campaign = Annotated[str | None, typer.Option(help="which mailing it belongs to")]
User = Annotated[str | None, typer.Option(help="user id of the one it is sent to")]
Email = Annotated[str | None, typer.Option(help="e-mail of the one it is sent to, where no user id is known")]
Phone = Annotated[str | None, typer.Option(help="phone number of the one it is sent to")]
Expires = Annotated[str | None, typer.Option(help="RFC 3339; later fetches lead on as before and are flagged")]


def _shared(
    campaign: str | None, user: str | None, email: str | None, phone: str | None, expires: str | None
) -> dict[str, Any]:
    recipient = given(userId=user, email=email, phone=phone)
    return given(campaign=campaign, recipient=recipient or None, expires=expires)


@app.command("make")
def make(
    partner: Partner,
    source: Name,
    urls: Annotated[list[str], typer.Argument(metavar="URL...", help="where they lead: http or https")],
    link: Annotated[str | None, typer.Option(help="which link it is")] = None,
    campaign: Campaign = None,
    user: User = None,
    email: Email = None,
    phone: Phone = None,
    expires: Expires = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """Tracked links that lead to the addresses."""
    shared = _shared(campaign, user, email, phone, expires) | given(link=link)
    _print(api, partner, source, [shared | {"url": url} for url in urls], json)


@app.command("pixel")
def pixel(
    partner: Partner,
    source: Name,
    campaign: Campaign = None,
    user: User = None,
    email: Email = None,
    phone: Phone = None,
    expires: Expires = None,
    api: Api = None,
    json: Json = False,
) -> None:
    """The address of an image that tells when a mail is opened."""
    _print(api, partner, source, [_shared(campaign, user, email, phone, expires)], json)


def _print(api: str | None, partner: str, source: str, links: list[dict[str, Any]], as_json: bool) -> None:
    made = Client(api).add("partners", partner, "sources", source, "links", body={"links": links})["items"]
    if as_json:
        print_list(made, ["address", "url"], True, "No link.")
        return
    for each in made:
        print(each["address"])  # a table would break the address over lines


@app.command("email")
def email(
    partner: Partner,
    source: Name,
    file: Annotated[Path, typer.Argument(help="HTML of the mail; - for standard input")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="where to; else standard output")] = None,
    no_pixel: Annotated[bool, typer.Option("--no-pixel", help="links only")] = False,
    campaign: Campaign = None,
    user: User = None,
    email: Email = None,
    phone: Phone = None,
    expires: Expires = None,
    api: Api = None,
) -> None:
    """Track every link of a mail and add the pixel; all else stays to the byte."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    # Only ASCII is put in, so bytes of another encoding come through as they are.
    encoding = "utf-8" if _is_utf8(content) else "latin-1"
    body = _shared(campaign, user, email, phone, expires) | {"html": content.decode(encoding), "pixel": not no_pixel}
    made = Client(api).add("partners", partner, "sources", source, "links", "email", body=body)
    result = made["html"].encode(encoding)
    if output is None:
        sys.stdout.buffer.write(result)
    else:
        try:
            output.write_bytes(result)
        except OSError as error:
            fail(f"{output}: {error.strerror}")
    typer.echo(f"{made['links']} links tracked, {made['skipped']} left as they were", err=True)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
