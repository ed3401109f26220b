"""What PostgreSQL can't hold costs a row its JSON, and no other row anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
from aiokafka import TopicPartition
from postgres_server import postgres_server

from pipeline.lake.lane import Names
from pipeline.query.postgres import _Tables

HISTORY = TopicPartition("history", 0)


def record(offset: int, properties: bytes) -> Any:
    """An event of `history`."""
    value = (
        b'{"id":"m%d","partner":"acme","source":"web","channel":"Web","type":"track","name":"Viewed","time":%d,'
        b'"received":5,"control":0,"user_id":"nul\\u0000","customer":"acme|u|1","properties":%b}'
        % (offset, offset, properties)
    )
    return SimpleNamespace(offset=offset, timestamp=5, key=b"", value=value, headers=())


async def test_a_number_too_large_and_a_nul_hold_nothing_up(tmp_path: Path) -> None:
    rows = [b'{"n": 1}', b'{"n": 1e999999}', b'{"t": "a\\u0000b", "u": "\\\\u0000"}', b'{"n": 2}', b'{"m": [1e999999]}']
    records = [record(offset, properties) for offset, properties in enumerate(rows)]
    with postgres_server(tmp_path) as address:
        async with await psycopg.AsyncConnection.connect(address, autocommit=True) as connection:
            tables = _Tables(connection, Names())
            await tables.prepare()
            batch: Any = SimpleNamespace(topic="history", partition=0, records=records)
            await tables.write([batch], {HISTORY: 5})
            # Made once, whoever comes next.
            again = _Tables(connection, Names())
            await again.prepare()
            assert await again.positions() == {("history", 0): 5}
            found = await connection.execute('SELECT id, user_id, properties FROM headrace.events ORDER BY "offset"')
            assert await found.fetchall() == [
                ("m0", "nul", {"n": 1}),
                ("m1", "nul", None),
                ("m2", "nul", {"t": "ab", "u": "\\u0000"}),
                ("m3", "nul", {"n": 2}),
                ("m4", "nul", None),
            ]
