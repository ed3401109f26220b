"""The reducer: what each command does, and what no sequence of bytes can do to it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.control import reducer
from pipeline.control.reducer import ControlState
from pipeline.models.control import COMMANDS, MAX_KEYS, Verdict

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.jsonl"))
LEAF: dict[str, Any] = {"event": "Category Viewed"}


class Log:
    """A control log in memory: every call is one record, a second after the one before."""

    def __init__(self) -> None:
        self.state = ControlState()
        self.records: list[tuple[int, int, bytes]] = []
        self._ids = itertools.count()

    def raw(self, value: bytes) -> Verdict:
        offset = len(self.records)
        self.records.append((offset, 1_700_000_000_000 + offset * 1000, value))
        return self.state.apply(*self.records[-1])

    def do(self, command: str, partner: str = "acme", id: str | None = None, **fields: Any) -> Verdict:
        document = {"v": 1, "id": id or f"command-{next(self._ids)}", "command": command, "partner": partner}
        return self.raw(orjson.dumps(document | fields))

    @property
    def now(self) -> int:
        return self.records[-1][1]


@pytest.fixture
def log() -> Log:
    made = Log()
    assert made.do("partner.create", data={"id": "acme", "name": "Acme"}).status == 201
    return made


def source(log: Log, id: str = "app", **data: Any) -> Verdict:
    return log.do("source.create", data={"id": id, "name": id.title(), "code": id} | data)


def integration(log: Log, id: str = "hook") -> Verdict:
    return log.do("integration.create", data={"id": id, "name": "Hook", "kind": "webhook"})


def rule(log: Log, id: str = "orders", **data: Any) -> Verdict:
    return log.do("rule.create", data={"id": id, "event": "Order Completed", "integration": "hook"} | data)


def said(verdict: Verdict) -> tuple[int, str, str | None]:
    return verdict.status, verdict.code, verdict.path


def test_a_partner_brings_its_system_source(log: Log) -> None:
    system = log.state.sources["acme", "online-store"]
    assert (system.name, system.code, system.channel, system.bridge) == ("Online Store", "online-store", "Web", "js")
    assert system.system
    assert system.active
    assert system.version == 1
    assert system.topic == "raw.acme.online-store"
    assert log.state.source_by_key("acme.online-store") is system
    assert said(log.do("partner.create", data={"id": "acme", "name": "B"})) == (409, "duplicate_id", "$.data.id")
    assert log.state.partners["acme"].name == "Acme"


def test_the_system_source_is_switched_off_and_edited_but_never_renamed_or_removed(log: Log) -> None:
    def edit(expect: int, **data: Any) -> Verdict:
        return log.do("source.edit", entity="online-store", expect=expect, data=data)

    assert said(edit(1, name="Shop")) == (409, "system_source", "$.data.name")
    assert said(log.do("source.remove", entity="online-store", expect=1)) == (409, "system_source", "$.entity")
    done = edit(1, active=False, code="shop", domain="shop.example", channel="Kiosk", name="Online Store")
    assert done.status == 200
    now = log.state.sources["acme", "online-store"]
    assert (now.active, now.code, now.domain, now.channel) == (False, "shop", "shop.example", "Kiosk")
    assert (now.version, now.name) == (2, "Online Store")
    assert edit(2, domain="").status == 200
    assert log.state.sources["acme", "online-store"].domain is None


def test_codes_are_unique_in_a_partner_and_free_again_when_given_up(log: Log) -> None:
    assert source(log).status == 201
    assert said(source(log, "other", code="app")) == (409, "duplicate_code", "$.data.code")
    assert log.do("partner.create", "beta", data={"id": "beta", "name": "B"}).status == 201
    elsewhere = log.do("source.create", "beta", data={"id": "app", "name": "App", "code": "app"})
    assert elsewhere.status == 201
    assert log.do("source.edit", entity="app", expect=1, data={"code": "mobile"}).status == 200
    assert log.state.source_by_key("acme.app") is None
    assert log.state.source_by_key("acme.mobile") is log.state.sources["acme", "app"]
    assert log.state.retired == {("acme", "app"): "app"}
    assert source(log, "other", code="app").status == 201
    assert log.state.retired == {}
    back = log.do("source.edit", entity="app", expect=2, data={"code": "app"})
    assert said(back) == (409, "duplicate_code", "$.data.code")


def test_version_3_takes_any_bridge_with_settings_and_a_policy_and_version_1_does_not(log: Log) -> None:
    assert source(log, bridge="queue-mqtt").status == 400
    data = {"id": "mq", "name": "Queue", "code": "mq", "bridge": "queue-mqtt", "settings": {"topic": "a/#"}}
    assert said(log.do("source.create", data=data)) == (400, "invalid", "$.data.bridge")
    made = log.do("source.create", v=3, data=data | {"policy": {"rate": 10}})
    assert made.status == 201
    assert log.state.sources["acme", "mq"].settings == {"topic": "a/#"}
    assert log.state.sources["acme", "mq"].policy.rate == 10
    edited = log.do("source.edit", v=3, entity="mq", expect=1, data={"policy": {"accepts": "payload"}})
    assert edited.status == 400
    assert log.do("source.edit", v=3, entity="mq", expect=1, data={"settings": {}}).status == 200
    assert log.state.sources["acme", "mq"].policy.rate == 10


def test_keys_of_a_source_are_added_and_revoked_under_its_version(log: Log) -> None:
    source(log)
    key = {"id": "k1", "name": "Till", "hash": "a" * 64}
    assert log.do("source.add_key", v=3, entity="app", expect=1, data=key).status == 200
    assert said(log.do("source.add_key", v=3, entity="app", expect=2, data=key)) == (409, "duplicate_id", "$.data.id")
    assert said(log.do("source.revoke_key", v=3, entity="app", expect=1, data={"id": "k1"})) == (
        409,
        "stale",
        "$.expect",
    )
    assert [each.id for each in log.state.sources["acme", "app"].keys] == ["k1"]
    assert log.do("source.revoke_key", v=3, entity="app", expect=2, data={"id": "k1"}).status == 200
    assert log.state.sources["acme", "app"].keys == []
    gone = log.do("source.revoke_key", v=3, entity="app", expect=3, data={"id": "k1"})
    assert said(gone) == (404, "unknown_key", "$.data.id")
    for number in range(MAX_KEYS):
        log.do("source.add_key", v=3, entity="app", expect=3 + number, data=key | {"id": f"k{number}"})
    many = log.do("source.add_key", v=3, entity="app", expect=3 + MAX_KEYS, data=key | {"id": "more"})
    assert said(many) == (409, "too_many_keys", "$.data.id")


def test_a_partners_own_event_types(log: Log) -> None:
    data = {"id": "visit", "event": "Shop Visited", "type": {"title": "Shop visited", "description": ""}}
    assert said(log.do("event_type.create", data=data)) == (400, "invalid", "$.command")
    assert log.do("event_type.create", v=3, data=data).status == 201
    same = log.do("event_type.create", v=3, data=data | {"id": "other"})
    assert said(same) == (409, "duplicate_event", "$.data.event")
    new = {"type": data["type"] | {"title": "Visit"}}
    assert log.do("event_type.edit", v=3, entity="visit", expect=1, data=new).status == 200
    assert log.state.event_types["acme", "visit"].type.title == "Visit"
    assert log.do("event_type.remove", v=3, entity="visit", expect=2).status == 200
    assert said(log.do("event_type.create", v=3, data=data)) == (409, "duplicate_id", "$.data.id")


@pytest.mark.parametrize("key", ["", ".", "acme", "acme.", ".app", "acme.app.app", "other.app", "acme.😀"])
def test_a_key_that_names_nothing(log: Log, key: str) -> None:
    source(log)
    assert log.state.source_by_key(key) is None


def test_a_removed_source_stays_as_a_tombstone_and_its_id_is_spent(log: Log) -> None:
    source(log)
    assert log.do("source.remove", entity="app", expect=1).status == 200
    tombstone = log.state.sources["acme", "app"]
    assert (tombstone.removed, tombstone.active, tombstone.version) == (True, False, 2)
    assert log.state.source_by_key("acme.app") is None
    assert log.state.retired["acme", "app"] == "app"
    assert said(source(log)) == (409, "duplicate_id", "$.data.id")
    for command in ("source.edit", "source.remove"):
        assert said(log.do(command, entity="app", expect=2)) == (404, "removed", "$.entity")
    assert source(log, "app-2", code="app").status == 201


@pytest.mark.parametrize("table", ["segments", "rules"])
def test_ids_of_removed_segments_and_rules_are_spent(log: Log, table: str) -> None:
    integration(log)
    noun = table.removesuffix("s")
    data = {"name": "S", "condition": LEAF} if noun == "segment" else {"event": "E", "integration": "hook"}
    assert log.do(f"{noun}.create", data={"id": "one"} | data).status == 201
    assert log.do(f"{noun}.remove", entity="one", expect=1).status == 200
    assert getattr(log.state, table) == {}
    assert said(log.do(f"{noun}.create", data={"id": "one"} | data)) == (409, "duplicate_id", "$.data.id")
    assert said(log.do(f"{noun}.edit", entity="one", expect=1)) == (404, "removed", "$.entity")


def test_a_stale_edit_is_refused_and_says_the_present_version(log: Log) -> None:
    source(log)
    assert log.do("source.edit", entity="app", expect=1, data={"name": "One"}).status == 200
    stale = log.do("source.edit", entity="app", expect=1, data={"name": "Two"})
    assert said(stale) == (409, "stale", "$.expect")
    assert "2" in stale.detail
    assert log.state.sources["acme", "app"].name == "One"
    missing = log.do("source.edit", entity="app", data={"name": "Two"})
    assert said(missing) == (400, "expect_missing", "$.expect")
    assert said(log.do("source.remove", entity="app", expect=1)) == (409, "stale", "$.expect")


def test_an_edit_that_changes_nothing_is_no_new_version(log: Log) -> None:
    before = source(log).entity
    same = log.do("source.edit", entity="app", expect=1, data={"name": "App", "code": "app"})
    assert (same.status, same.entity) == (200, before)
    assert log.state.retired == {}


def test_an_edit_from_one_to_true_is_a_change(log: Log) -> None:
    integration(log)
    rule(log, restrictions=[{"property": "p", "values": [1]}])
    for version, values in enumerate([[True], [1.0], ["1"]], start=1):
        restrictions = [{"property": "p", "values": values}]
        done = log.do("rule.edit", entity="orders", expect=version, data={"restrictions": restrictions})
        assert done.entity is not None
        assert done.entity["version"] == version + 1
        kept = log.state.rules["acme", "orders"].restrictions[0].values[0]
        assert (kept, type(kept)) == (values[0], type(values[0]))


def test_a_repeated_command_id_gets_the_first_verdict_and_changes_nothing(log: Log) -> None:
    first = log.do("source.create", id="a-repeat", data={"id": "app", "name": "App", "code": "app"})
    log.do("source.edit", entity="app", expect=1, data={"name": "Later"})
    again = log.do("source.create", id="a-repeat", data={"id": "app", "name": "App", "code": "app"})
    assert again == first
    assert log.state.sources["acme", "app"].name == "Later"
    refused = log.do("source.edit", id="refused-1", entity="app", expect=1, data={"name": "X"})
    assert log.do("source.edit", id="refused-1", entity="app", expect=2, data={"name": "X"}) == refused
    other = log.do("partner.create", "beta", id="a-repeat", data={"id": "beta", "name": "B"})
    assert other.status == 201, "ids are a partner's own: nobody reads another's verdict"


def test_the_memory_of_command_ids_is_bounded(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducer, "REMEMBERED", 2)
    log.do("source.create", id="forgotten", data={"id": "app", "name": "App", "code": "app"})
    log.do("partner.edit", expect=1)
    log.do("partner.edit", expect=1)
    again = log.do("source.create", id="forgotten", data={"id": "app", "name": "App", "code": "app"})
    assert said(again) == (409, "duplicate_id", "$.data.id")
    assert len(log.state._verdicts) == 2


def test_a_segment_has_been_since_its_condition_changed(log: Log) -> None:
    log.do("segment.create", data={"id": "jackets", "name": "Jackets", "condition": LEAF})
    born = log.now
    assert log.state.segments["acme", "jackets"].since == born
    log.do("segment.edit", entity="jackets", expect=1, data={"name": "Coats", "condition": LEAF})
    renamed = log.state.segments["acme", "jackets"]
    assert (renamed.since, renamed.updated, renamed.version, renamed.name) == (born, log.now, 2, "Coats")
    leaf = LEAF | {"count": {"value": 2}}
    log.do("segment.edit", entity="jackets", expect=2, data={"condition": leaf})
    assert log.state.segments["acme", "jackets"].since == log.now


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ({}, "$.data.condition"),
        ({"all": []}, "$.data.condition.all"),
        ({"event": 5}, "$.data.condition.event"),
        ({"not": {"all": [LEAF, LEAF | {"count": {"value": -1}}]}}, "$.data.condition.not.all[1].count.value"),
        ({"any": [LEAF | {"where": [{"property": "p", "op": "~"}]}]}, "$.data.condition.any[0].where[0].op"),
        ({"all": [LEAF, {"any": [LEAF], "not": LEAF}]}, "$.data.condition.all[1]"),
        ({"all": [LEAF | {"source": "nowhere"}]}, "$.data.condition.all[0].source"),
        ({"all": [LEAF] * 200 + [LEAF]}, "$.data.condition.all"),
        ({"any": [{"all": [LEAF] * 150}] * 2}, "$.data.condition"),
        (LEAF | {"window": {"rolling": "30 days"}}, "$.data.condition.window.rolling"),
        (LEAF | {"surprise": 1}, "$.data.condition.surprise"),
    ],
)
def test_a_bad_condition_is_refused_with_the_path_of_its_fault(log: Log, condition: Any, path: str) -> None:
    verdict = log.do("segment.create", data={"id": "s", "name": "S", "condition": condition})
    assert said(verdict) == (400, "invalid", path)
    assert log.state.segments == {}


def test_a_deep_condition_is_refused_whatever_its_depth(log: Log) -> None:
    for depth in (21, 60, 500, 5000):
        text = '{"not":' * depth + json.dumps(LEAF) + "}" * depth
        data = '{"id":"s","name":"S","condition":' + text + "}"
        head = f'{{"id":"deep-{depth:05}","command":"segment.create","partner":"acme","data":'
        verdict = log.raw((head + data + "}").encode())
        assert verdict.status == 400, depth


def test_deep_settings_are_refused_before_they_are_kept(log: Log) -> None:
    settings_: Any = 1
    for _ in range(200):
        settings_ = [settings_]
    data = {"id": "deep", "name": "Deep", "kind": "webhook", "settings": {"x": settings_}}
    assert said(log.do("integration.create", data=data)) == (400, "malformed", "$")
    assert log.state.integrations == {}


def test_a_rule_needs_an_integration_and_an_integration_in_use_stays(log: Log) -> None:
    assert said(rule(log)) == (404, "unknown_integration", "$.data.integration")
    integration(log)
    assert rule(log).status == 201
    used = log.do("integration.remove", entity="hook", expect=1)
    assert said(used) == (409, "in_use", "$.entity")
    assert "orders" in used.detail
    assert log.do("rule.remove", entity="orders", expect=1).status == 200
    assert log.do("integration.remove", entity="hook", expect=1).status == 200
    assert said(rule(log, "again")) == (404, "unknown_integration", "$.data.integration")
    assert log.state.integrations["acme", "hook"].removed


@pytest.mark.parametrize("values", [[], [None], [{}], [["a"]]])
def test_restrictions_compare_with_plain_values(log: Log, values: Any) -> None:
    integration(log)
    verdict = rule(log, restrictions=[{"property": "total", "values": values}])
    assert verdict.status == 400
    assert verdict.path is not None
    assert verdict.path.startswith("$.data.restrictions[0].values")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"partner": "nobody"}, (404, "unknown_partner", "$.partner")),
        ({"entity": "nothing"}, (404, "unknown_source", "$.entity")),
        ({"entity": None}, (400, "invalid", "$.entity")),
        ({"data": {"code": "has space"}}, (400, "invalid", "$.data.code")),
        ({"data": {"domain": "https://shop.example/"}}, (400, "invalid", "$.data.domain")),
        ({"data": {"id": "other"}}, (400, "invalid", "$.data.id")),
        ({"data": []}, (400, "invalid", "$.data")),
        ({"v": 2}, (400, "invalid", "$.v")),
        ({"command": "source.explode"}, (400, "invalid", "$.command")),
        ({"id": "short"}, (400, "invalid", "$.id")),
        ({"extra": 1}, (400, "invalid", "$.extra")),
        ({"partner": "Not A Slug"}, (400, "invalid", "$.partner")),
        ({"expect": 99}, (409, "stale", "$.expect")),
    ],
)
def test_refusals_say_where(log: Log, fields: dict[str, Any], expected: tuple[int, str, str]) -> None:
    source(log)
    before = log.state.sources["acme", "app"]
    command: dict[str, Any] = {"v": 1, "id": "refused-1", "command": "source.edit", "partner": "acme"}
    verdict = log.raw(orjson.dumps(command | {"entity": "app", "expect": 1, "data": {}} | fields))
    assert said(verdict) == expected
    assert verdict.detail
    assert log.state.sources["acme", "app"] is before


def test_the_names_in_a_creation_must_agree(log: Log) -> None:
    two = log.do("partner.create", "beta", data={"id": "gamma", "name": "G"})
    assert said(two) == (400, "invalid", "$.data.id")
    other = log.do("source.create", entity="x", data={"id": "y", "name": "Y", "code": "y"})
    assert said(other) == (400, "invalid", "$.data.id")
    versioned = log.do("source.create", expect=3, data={"id": "y", "name": "Y", "code": "y"})
    assert said(versioned) == (400, "invalid", "$.expect")


def test_an_offset_is_applied_once(log: Log) -> None:
    with pytest.raises(ValueError, match="again"):
        log.state.apply(0, 0, b"")


def test_a_bug_of_ours_refuses_the_command_and_stops_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(reducer._HANDLERS, "source.create", broken)
    assert said(source(log)) == (500, "bug", None)
    assert log.do("partner.edit", expect=1, data={"sending": True}).status == 200


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"[]", b"null", b"5", b"{", b"[" * 3000, b'{"id": 1e999}'])
def test_garbage_is_a_verdict(log: Log, value: bytes) -> None:
    assert said(log.raw(value)) == (400, "malformed", "$")


# Properties. A small world, so that commands meet each other.

_ids = st.sampled_from(["acme", "beta", "app", "web", "online-store", "hook"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | _ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_leaf = st.fixed_dictionaries(
    {"event": st.sampled_from(["A", "B"])}, optional={"source": _ids, "count": st.just({"value": 2})}
)
_condition = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda c: {"all": c}) | inner.map(lambda c: {"not": c}),
    max_leaves=5,
)
_fields: dict[str, st.SearchStrategy[Any]] = {
    "id": _ids,
    "name": st.sampled_from(["N", "Online Store", "😀"]),
    "code": _ids,
    "domain": st.sampled_from(["", "a.example"]),
    "active": st.booleans(),
    "sending": st.booleans(),
    "condition": _condition,
    "kind": st.just("webhook"),
    "hash": st.sampled_from(["a" * 64, "b" * 64]),
    "type": st.just({"title": "T", "description": "", "properties": {"p": {"type": "string"}}}),
    "policy": st.sampled_from([{}, {"key": "secret", "transient": True}, {"accepts": "payload"}]),
    "settings": st.dictionaries(st.text(max_size=3), _json, max_size=2),
    "event": st.just("E"),
    "integration": _ids,
    "restrictions": st.just([{"property": "p", "values": [1, True, "x"]}]),
}


@st.composite
def _command(draw: st.DrawFn) -> bytes:
    """Mostly well-formed: the fields that the command's model has, any of the optional ones left out."""
    version, name = draw(st.sampled_from([(v, name) for v, names in COMMANDS.items() for name in sorted(names)]))
    partner = draw(st.sampled_from(["acme", "beta"]))
    data = {}
    for field, info in COMMANDS[version][name].model_fields.items():
        if field in _fields and (info.is_required() or draw(st.booleans())):
            data[field] = partner if (name, field) == ("partner.create", "id") else draw(_fields[field])
    document: dict[str, Any] = {"v": version, "id": draw(st.uuids()).hex, "command": name, "partner": partner}
    if not name.endswith(".create"):
        document |= {"entity": draw(_ids), "expect": draw(st.integers(1, 3))}
        if name == "partner.edit":
            document["entity"] = None
    document["data"] = data
    if draw(st.integers(0, 9)) == 0:
        document[draw(st.sampled_from(sorted(document)))] = draw(_json)
    try:
        return orjson.dumps(document)
    except TypeError:  # integers wider than 64 bits are JSON all the same
        return json.dumps(document).encode()


_PARTNER = orjson.dumps(
    {"id": "the-first", "command": "partner.create", "partner": "acme", "data": {"id": "acme", "name": "A"}}
)
_logs = st.lists(_command() | st.binary(max_size=40) | _json.map(lambda v: json.dumps(v).encode()), max_size=30)


def _tables(state: ControlState) -> dict[str, Any]:
    return vars(state)


@settings(max_examples=150, deadline=None)
@given(values=_logs)
def test_any_log_gives_one_state_and_keeps_the_invariants(values: list[bytes]) -> None:
    one, two = ControlState(), ControlState()
    for offset, value in enumerate([_PARTNER, *values]):
        before = {key: source.version for key, source in one.sources.items()}
        verdict = one.apply(offset, 1000 + offset, value)
        assert verdict.status in (200, 201, 400, 404, 409), verdict
        assert (verdict.entity is not None) == (verdict.status < 300)
        assert two.apply(offset, 1000 + offset, value) == verdict
        assert before.keys() <= one.sources.keys(), "a source's id never leaves the table"
        assert all(one.sources[key].version in (v, v + 1) for key, v in before.items())
    assert _tables(one) == _tables(two)

    live = [source for source in one.sources.values() if not source.removed]
    assert len({source.key for source in live}) == len(live), "codes are unique in a partner"
    assert all(one.source_by_key(source.key) is source for source in live)
    assert not {(source.partner, source.code) for source in live} & one.retired.keys()
    for partner in one.partners:
        system = one.sources[partner, "online-store"]
        assert (system.name, system.system, system.removed) == ("Online Store", True, False)
    for rule_ in one.rules.values():
        assert not one.integrations[rule_.partner, rule_.integration].removed


@settings(max_examples=200, deadline=None)
@given(value=st.binary(max_size=200))
def test_no_bytes_make_it_raise(value: bytes) -> None:
    assert ControlState().apply(0, 0, value).status in (400, 404, 201)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_verdicts_of_golden_logs_are_frozen(path: Path) -> None:
    """A line is {time, value, verdict}. Add lines and files; never change one: stored logs were judged so."""
    state = ControlState()
    for offset, line in enumerate(path.read_bytes().splitlines()):
        entry = orjson.loads(line)
        verdict = state.apply(offset, entry["time"], entry["value"].encode())
        expected = entry["verdict"]
        assert verdict.model_dump(mode="json", include=set(expected)) == expected, f"{path.name}:{offset + 1}"


def test_there_is_a_golden_log_with_every_command() -> None:
    seen = set()
    for path in GOLDEN:
        for line in path.read_bytes().splitlines():
            entry = orjson.loads(line)
            if entry["verdict"]["status"] < 300:
                command = orjson.loads(entry["value"])
                seen.add((command["v"], command["command"]))
    changed = {
        (version, name)
        for before, version in itertools.pairwise(sorted(COMMANDS))
        for name, model in COMMANDS[version].items()
        if COMMANDS[before].get(name) is not model
    }
    assert seen >= {(1, name) for name in COMMANDS[1]} | changed


@pytest.mark.parametrize(
    ("condition", "path"),
    [
        ({"bucket": {"salt": "x", "from": 5, "to": 5}}, "$.data.condition.bucket"),
        ({"all": [LEAF, {"first": LEAF | {"x": 1}, "within": {"rolling": "1d"}}]}, "$.data.condition.all[1].first.x"),
        ({"not": {"sequence": [LEAF, {"event": ""}]}}, "$.data.condition.not.sequence[1].event"),
        ({"aggregate": "sum", "property": "p", "of": LEAF, "is": {"value": "1"}}, "$.data.condition.is.value"),
        ({"days": LEAF, "window": {"rolling": "1d"}}, "$.data.condition"),
        ({"last": LEAF, "before": {"between": {"to": "2026-01-31"}}}, "$.data.condition"),
        (LEAF | {"window": {"between": {"from": "2026-02-01", "to": "2026-01-31"}}}, "$.data.condition.window.between"),
        (
            LEAF | {"window": {"between": {"from": "2026-02-01T10:00:00Z", "to": "2026-02-01T11:00:00+01:00"}}},
            "$.data.condition.window.between",
        ),
        (LEAF | {"window": {"calendar": {"days": 0}}}, "$.data.condition.window.calendar.days"),
    ],
)
def test_a_fault_in_a_new_leaf_is_told_with_its_path(log: Log, condition: dict[str, Any], path: str) -> None:
    verdict = log.do("segment.create", v=4, data={"id": "s", "name": "S", "condition": condition})
    assert (verdict.status, verdict.path) == (400, path)


def chained(log: Log, length: int) -> None:
    """`s0`, and so many that are each made of the one before."""
    assert log.do("segment.create", v=4, data={"id": "s0", "name": "S", "condition": LEAF}).status == 201
    for number in range(1, length):
        data = {"id": f"s{number}", "name": "S", "condition": {"segment": f"s{number - 1}"}}
        assert log.do("segment.create", v=4, data=data).status == 201


def test_no_segment_becomes_longer_than_the_most_whichever_end_is_lengthened(log: Log) -> None:
    chained(log, 20)
    over = log.do("segment.create", v=4, data={"id": "top", "name": "T", "condition": {"segment": "s19"}})
    assert over.status == 201
    more = log.do("segment.create", v=4, data={"id": "more", "name": "M", "condition": {"segment": "top"}})
    assert (more.status, more.path) == (400, "$.data.condition.segment")
    assert log.do("segment.create", v=4, data={"id": "base", "name": "B", "condition": LEAF}).status == 201
    below = log.do("segment.edit", v=4, entity="s0", expect=1, data={"condition": {"segment": "base"}})
    assert (below.status, below.path) == (400, "$.data.condition.segment")


def test_an_archived_segment_comes_back_only_if_what_it_is_made_of_is_still_there(log: Log) -> None:
    chained(log, 2)
    assert log.do("segment.edit", v=4, entity="s1", expect=1, data={"archived": True}).status == 200
    assert log.do("segment.edit", v=4, entity="s0", expect=1, data={"archived": True}).status == 200
    back = log.do("segment.edit", v=4, entity="s1", expect=2, data={"archived": False})
    assert (back.status, back.code, back.path) == (400, "invalid", "$.condition.segment")
    assert log.do("segment.edit", v=4, entity="s0", expect=2, data={"archived": False}).status == 200
    assert log.do("segment.edit", v=4, entity="s1", expect=2, data={"archived": False}).status == 200
