"""Declared patches: what they mend, and what they can't be applied to."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events.patch import PatchError, compile_patch
from pipeline.models.patch import Patch


def mended(operations: list[dict[str, Any]], body: Any, headers: Any = (), key: str = "acme.app") -> tuple[Any, Any]:
    mend = compile_patch(Patch.model_validate({"operations": operations}))
    value, left = mend(body if isinstance(body, bytes) else orjson.dumps(body), headers, key)
    return orjson.loads(value), left


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ({"op": "set", "path": "$.event", "value": "Seen"}, {"a": 1}, {"a": 1, "event": "Seen"}),
        ({"op": "set", "path": "$.userId", "value": "$.who.id"}, {"who": {"id": 7}}, {"who": {"id": 7}, "userId": 7}),
        ({"op": "set", "path": "$.a.b", "value": "$.a"}, {"a": {"c": 1}}, {"a": {"c": 1, "b": {"c": 1}}}),
        ({"op": "set", "path": "$.a.b.c", "value": None}, {}, {"a": {"b": {"c": None}}}),
        ({"op": "set", "path": "$.a.b", "value": 1}, {"a": None}, {"a": {"b": 1}}),
        (
            {"op": "set", "path": "$.p.price", "value": {"path": "$.p.price", "as": "number"}},
            {"p": {"price": "7.5"}},
            {"p": {"price": 7.5}},
        ),
        ({"op": "set", "path": "$.lines[1].sku", "value": "{$.id}-x"}, {"id": 1, "lines": [0, {}]},
         {"id": 1, "lines": [0, {"sku": "1-x"}]}),
        ({"op": "set", "path": "$.id", "value": "$header.x-id"}, {}, {"id": "h"}),
        ({"op": "rename", "path": "$.evnt", "to": "$.event"}, {"evnt": "E"}, {"event": "E"}),
        ({"op": "rename", "path": "$.none", "to": "$.event"}, {"event": "E"}, {"event": "E"}),
        ({"op": "remove", "path": '$.p["a b"]'}, {"p": {"a b": 1, "c": 2}}, {"p": {"c": 2}}),
        ({"op": "remove", "path": "$.p.q.r"}, {"p": 1}, {"p": 1}),
        ({"op": "remove", "path": "$.list[-1]"}, {"list": [1, 2]}, {"list": [1]}),
        ({"op": "replace", "path": "$.event", "values": {"Old": "New"}}, {"event": "Old"}, {"event": "New"}),
        ({"op": "replace", "path": "$.event", "values": {"Old": "New"}}, {"event": "Other"}, {"event": "Other"}),
        ({"op": "replace", "path": "$.event", "values": {"Old": "New"}}, {"event": 1}, {"event": 1}),
    ],
)  # fmt: skip
def test_operations(operation: dict[str, Any], before: Any, after: Any) -> None:
    assert mended([operation], before, [("X-Id", b"h")])[0] == after


def test_operations_go_in_order() -> None:
    operations = [
        {"op": "rename", "path": "$.a", "to": "$.b"},
        {"op": "set", "path": "$.c", "value": "$.b"},
        {"op": "remove", "path": "$.b"},
    ]
    assert mended(operations, {"a": 1})[0] == {"c": 1}


def test_the_key_is_the_one_that_the_source_has_now() -> None:
    headers = [("ce_source", b"acme.old"), ("x", b"y")]
    value, left = mended([{"op": "key"}], {"writeKey": "acme.old", "event": "E"}, headers)
    assert value == {"writeKey": "acme.app", "event": "E"}
    assert left == [("ce_source", b"acme.app"), ("x", b"y")]
    mend = compile_patch(Patch.model_validate({"operations": [{"op": "key"}]}))
    assert mend(b"no json at all", headers, "acme.app") == (
        b"no json at all",
        [("ce_source", b"acme.app"), ("x", b"y")],
    )


def test_a_patch_that_can_not_be_read_is_named() -> None:
    operations = [{"op": "key"}, {"op": "set", "path": "$.a", "value": "$.x y"}]
    with pytest.raises(PatchError) as caught:
        compile_patch(Patch.model_validate({"operations": operations}))
    assert caught.value.path == "$.patch[1].value"
    for path in ("$", "a.b", "$.a..b", "$.b[", "$.x y", "@.a"):
        with pytest.raises(ValueError, match="path"):
            Patch.model_validate({"operations": [{"op": "remove", "path": path}]})


@pytest.mark.parametrize(
    ("body", "path"),
    [(b"{", "$"), (b"\xff", "$"), ([], "$.a.b"), ({"a": 7}, "$.a.b"), ({"a": [1]}, "$.a.b"), ({"a": "text"}, "$.a.b")],
)
def test_a_record_that_it_can_not_be_applied_to_is_named(body: Any, path: str) -> None:
    with pytest.raises(PatchError) as caught:
        mended([{"op": "set", "path": "$.a.b", "value": 1}], body)
    assert caught.value.path == path


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
paths = st.lists(st.sampled_from([".a", ".b", ".c", "[0]", "[-1]"]), min_size=1, max_size=4).map(
    lambda p: "$" + "".join(p)
)
any_operation = st.one_of(
    st.builds(lambda p, v: {"op": "set", "path": p, "value": v}, paths, st.integers() | paths),
    st.builds(lambda p, t: {"op": "rename", "path": p, "to": t}, paths, paths),
    st.builds(lambda p: {"op": "remove", "path": p}, paths),
    st.builds(lambda p: {"op": "replace", "path": p, "values": {"a": 1}}, paths),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(any_operation, min_size=1, max_size=5), json_values)
def test_whatever_is_patched_there_is_json_or_a_reason(operations: list[dict[str, Any]], body: Any) -> None:
    refusal: PatchError | None = None
    try:
        mended(operations, body)
    except PatchError as error:
        refusal = error
    assert refusal is None or refusal.path.startswith("$")
