"""A whole e-mail with its links tracked: HTML in, the same HTML out but for addresses and a pixel. Pure.

Everything else stays to the byte: only the value of an ``href`` is replaced, inside its own quotes. Outlook's
conditional comments are gone through too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from html.entities import html5
from typing import NamedTuple

from pipeline.bridges.link_token import destination

__all__ = ["Rewritten", "rewrite"]

#: ``data-headrace="skip"`` leaves a link as it is (to unsubscribe, say); ``data-headrace-link`` names one.
SKIP, NAME = "data-headrace", "data-headrace-link"
_TAGS = ("a", "area")
_TAG_NAME = re.compile(r"<(/?)([A-Za-z][^ \t\n\f\r/>]*)")
_BETWEEN = re.compile(r"[ \t\n\f\r/]*")
_ATTRIBUTE = re.compile(r"([^ \t\n\f\r/>][^ \t\n\f\r/>=]*)(?:[ \t\n\f\r]*(=)[ \t\n\f\r]*)?")
_UNQUOTED = re.compile(r"[^ \t\n\f\r>]*")
#: What stands in these is text, whatever it looks like.
_TEXT_ONLY = {
    name: re.compile(rf"</{name}(?=[ \t\n\f\r/>])", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}
_ENTITY = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{0,31})(;?)(=?)")
#: What the sender's own templates leave to be filled in later; such an address is nobody's to sign yet.
_PLACEHOLDER = re.compile(r"\{\{|\{%|\*\||\[\[|%%|<%|\$\{")


class Rewritten(NamedTuple):
    """``links``: how many are tracked now; ``skipped``: how many were left as they are."""

    html: str
    links: int
    skipped: int


class _Value(NamedTuple):
    """An attribute's: where it stands, and what it says."""

    start: int
    end: int
    text: str


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


def rewrite(html: str, track: Callable[[str, str], str | None], pixel: str | None) -> Rewritten:
    """``track``: destination and the link's name (``data-headrace-link``, else its number) -> its tracked address, or
    None to leave it. ``pixel``: the address of an image to add before the end of the body; None for none.
    """
    tags, end = _scanned(html, 0, len(html))
    edits: list[_Edit] = []
    links = skipped = 0
    for attributes in tags:
        if "href" not in attributes:
            continue
        place = attributes["href"]
        url = _wanted(attributes)
        name = attributes[NAME].text if NAME in attributes else ""
        address = track(url, name or str(links + 1)) if url is not None else None
        if address is None:
            skipped += 1
        else:
            links += 1
            edits.append(_Edit(place.start, place.end, escape(address)))
    if pixel is not None:
        image = (
            f'<img src="{escape(pixel)}" width="1" height="1" alt="" '
            'style="display:block;width:1px;height:1px;border:0">'
        )
        edits.append(_Edit(end, end, image))
    out: list[str] = []
    at = 0
    for edit in sorted(edits):
        out += [html[at : edit.start], edit.text]
        at = edit.end
    return Rewritten("".join([*out, html[at:]]), links, skipped)


def _scanned(html: str, start: int, stop: int) -> tuple[list[dict[str, _Value]], int]:
    """The attributes of each tag that may lead somewhere, and where the body ends. In one pass, as browsers read it:
    what is not closed is read to the end.
    """
    tags: list[dict[str, _Value]] = []
    ends: dict[str, int] = {}
    at = start
    while (at := html.find("<", at, stop)) >= 0:
        if html.startswith("<!--", at):
            close = html.find("-->", at + 4, stop)
            if close < 0:
                break
            if start == 0 and html[at + 4 : at + 40].lstrip().lower().startswith("[if"):
                tags += _scanned(html, at + 4, close)[0]  # what Outlook shows
            at = close + 3
            continue
        tag = _TAG_NAME.match(html, at, stop)
        if tag is None:
            at += 1
            continue
        name = tag[2].lower()
        if tag[1] and name in ("body", "html"):
            ends[name] = at
        found = _attributes(html, tag.end(), stop)
        if found is None:
            break
        attributes, at = found
        if not tag[1] and (name in _TAGS or name.startswith("v:")):
            tags.append(attributes)
        elif not tag[1] and name in _TEXT_ONLY:
            close_tag = _TEXT_ONLY[name].search(html, at, stop)
            if close_tag is None:
                break
            at = close_tag.start()
    return tags, ends.get("body", ends.get("html", stop))


def _attributes(html: str, at: int, stop: int) -> tuple[dict[str, _Value], int] | None:
    """The attributes of a tag from behind its name, and where the tag ends; None where it does not. Of two of one name
    the first counts.
    """
    found: dict[str, _Value] = {}
    while True:
        at = _BETWEEN.match(html, at, stop).end()  # type: ignore[union-attr]
        if at >= stop:
            return None
        if html[at] == ">":
            return found, at + 1
        attribute = _ATTRIBUTE.match(html, at, stop)
        assert attribute is not None
        at = attribute.end()
        if attribute[2] is None:
            continue
        quote = html[at : at + 1]
        if quote in ("'", '"'):
            begin, end = at + 1, html.find(quote, at + 1, stop)
            if end < 0:
                return None
            at = end + 1
        else:
            begin, end = at, _UNQUOTED.match(html, at, stop).end()  # type: ignore[union-attr]
            at = end
        found.setdefault(attribute[1].lower(), _Value(begin, end, _unescaped(html[begin:end])))


def _wanted(attributes: dict[str, _Value]) -> str | None:
    """Where a tag leads, if that is to be tracked."""
    url = attributes["href"].text
    if SKIP in attributes and attributes[SKIP].text.strip().lower() == "skip":
        return None
    if _PLACEHOLDER.search(url):
        return None
    try:
        return destination(re.sub(r"[\t\r\n]", "", url))
    except ValueError:
        return None


def _unescaped(value: str) -> str:
    """An attribute's value as browsers read it: ``&copy=1`` in an address is no ©."""

    def char(match: re.Match[str]) -> str:
        name, semicolon, equals = match.groups()
        if name.startswith("#"):
            code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
            known = 0 < code < 0x110000 and not 0xD800 <= code < 0xE000
            return (chr(code) if known else "\ufffd") + equals
        if semicolon:
            return html5[f"{name};"] + equals if f"{name};" in html5 else match[0]
        return html5[name] if name in html5 and not equals else match[0]

    return _ENTITY.sub(char, value)
