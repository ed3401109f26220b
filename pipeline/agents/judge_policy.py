"""Intake's judgement by a policy that changes a record before it is judged: a mapping, or a client that refused.

Pure, as `judge` is, and slower: the record is decoded whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from pipeline.agents.judge import Edge, Header, Judged, admit, edge_of, first_id, judge_event
from pipeline.events.consent import GPC_HEADER, anonymous, refused
from pipeline.events.facts import CountryOf
from pipeline.events.mapping import MappingError
from pipeline.events.rules import Rules
from pipeline.events.verdicts import DropError, RejectError
from pipeline.models.control import Source
from pipeline.stream.dead_letters import ORIGINAL

__all__ = ["judge_all"]

#: Of all events that one record may become.
_MAX_MAPPED_BYTES = 8_000_000
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def judge_all(
    source: Source | None,
    value: bytes | None,
    headers: Sequence[Header],
    *,
    appended: int,
    control: int,
    fallback_id: str,
    rules: Rules | None = None,
    country_of: CountryOf | None = None,
) -> list[Judged]:
    """The validated events of a raw record of any source; arguments as of `judge.judge`.

    Raises RejectError (of a record that becomes several events, one that is bad refuses all) and DropError.
    """
    rules = admit(source, value, rules)
    edge = edge_of(headers)
    content = value or b""
    guarded = rules.guarded and edge.get(GPC_HEADER) == "1"
    if guarded and rules.source.policy.gpc == "drop":
        raise DropError("consent")
    try:
        values = [content] if rules.program is None else _mapped(rules, content, headers)
        events: list[Judged] = []
        # Of a record that was written again, the place that it had at first names its events.
        place = first_id(edge, rules.source.topic) or fallback_id
        for index, each in enumerate(values):
            name = f"{place}:{index}" if index else place
            judged = _one(rules, each, _edge_at(edge, index), appended, control, name, country_of)
            if judged is not None:
                events.append(judged)
    except RejectError as error:
        error.withhold = error.withhold or guarded
        raise
    if not events:
        raise DropError("consent" if values else "ignored")
    return events


def _mapped(rules: Rules, value: bytes, headers: Sequence[Header]) -> list[bytes]:
    assert rules.program is not None
    try:
        value.decode()
        document = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RejectError("not_json", str(error)[:300]) from None
    except RecursionError:
        raise RejectError("not_json", "nested too deeply") from None
    known = {name.lower(): (content or b"").decode("utf-8", "replace") for name, content in headers}
    try:
        events = [_encode(each) for each in rules.program(document, known)]
    except MappingError as error:
        raise RejectError("mapping", str(error)[:300], error.path) from None
    size = sum(map(len, events))
    if size > _MAX_MAPPED_BYTES:
        raise RejectError("too_large", f"the mapping makes {size:,} bytes of it; at most {_MAX_MAPPED_BYTES:,}")
    return events


def _edge_at(edge: Edge, index: int) -> Edge:
    """Of the event at ``index`` of a record: the record's id is the first one's, the others' are made from it."""
    if not index:
        return edge
    own = {name: text for name, text in edge.items() if name not in ("ce_id", ORIGINAL)}
    return own | {"ce_id": f"{edge['ce_id'][:500]}:{index}"} if "ce_id" in edge else own


def _one(
    rules: Rules, value: bytes, edge: Edge, appended: int, control: int, name: str, country_of: CountryOf | None
) -> Judged | None:
    """One event; None where consent leaves nothing of it."""
    if not rules.guarded:
        return judge_event(rules, value, edge, appended, control, name, country_of)
    document: Any = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = _decode(value)  # what can't be read is judged below, and rejected
    if not refused(document, edge.get(GPC_HEADER)):
        return judge_event(rules, value, edge, appended, control, name, country_of)
    if rules.source.policy.gpc == "drop":
        return None
    nobody = type(document) is dict
    if nobody:
        left = anonymous(document)
        if left is None:
            return None
        value = _encode(left)
    try:
        return judge_event(rules, value, edge, appended, control, name, country_of, nobody)
    except RejectError as error:
        error.withhold = True
        raise
