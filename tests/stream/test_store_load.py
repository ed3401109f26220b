"""Reading a batch's keys at once: whatever is loaded, reads stay what they would have been."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stream.hot import UNKNOWN
from pipeline.stream.store import Store, Table

KEYS = [b"k%03d" % number for number in range(120)]
_changes = st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=3), max_size=60)
_steps = st.lists(
    st.tuples(st.just("write"), _changes)
    | st.tuples(st.just("load"), st.lists(st.sampled_from(KEYS), max_size=100))
    | st.tuples(st.just("forget"), st.none()),
    max_size=12,
)


def _open(path: Path) -> Store:
    return Store(path, {"t": Table("t", "log")})


@settings(max_examples=60, deadline=None)
@given(_steps)
def test_reads_are_those_of_a_dict(tmp_path_factory: Any, steps: list[tuple[str, Any]]) -> None:
    store, model = _open(tmp_path_factory.mktemp("store") / "0"), dict.fromkeys(KEYS)
    try:
        for step, argument in steps:
            if step == "write":
                store.write({"t": argument}, {})
                model |= argument
            elif step == "load":
                asyncio.run(store.load("t", argument))
            else:
                store._hot["t"].clear()
            assert {key: store.get("t", key) for key in KEYS[::7]} == {key: model[key] for key in KEYS[::7]}
        assert {key: store.get("t", key) for key in KEYS} == model
    finally:
        store.close()


async def test_what_was_loaded_is_in_memory_and_absence_too(tmp_path: Path) -> None:
    store = _open(tmp_path / "0")
    try:
        store.write({"t": dict.fromkeys(KEYS[:60], b"v")}, {})
        store._hot["t"].clear()
        await store.load("t", KEYS)
        young = store._hot["t"].young
        assert [young.get(key, UNKNOWN) for key in KEYS] == [b"v"] * 60 + [None] * 60
    finally:
        store.close()
