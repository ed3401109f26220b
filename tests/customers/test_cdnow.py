"""Real purchases: fan-out's counts of ten segments at twenty moments equal SQL over the raw file, exactly."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
from fanout_world import FanoutWorld

from pipeline.control.reducer import ControlState
from pipeline.models.control import Command
from pipeline.models.event import WATERMARK_KEY

DAY = 86_400_000
#: 1997-01-01.
START = 852_076_800_000
ROWS = 69_659
REQUIREMENTS = Path(__file__).parents[1] / "data" / "cdnow.txt"
BUY = {"event": "Bought"}
MANY = BUY | {"where": [{"property": "cds", "op": ">=", "value": 3}]}
ONE = BUY | {"where": [{"property": "cds", "op": "<", "value": 2}]}
WEEK: dict[str, Any] = {"calendar": {"days": 7}}

#: Segment -> condition, and the customers who are in it at `$m` (ms); `seen` are the purchases up to that moment.
SEGMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "active": (
        BUY | {"window": {"rolling": "30d"}},
        "SELECT count(DISTINCT customer) FROM seen WHERE t >= $m - 30 * $d",
    ),
    "again": (
        BUY | {"count": {"op": ">=", "value": 2}},
        "SELECT count(*) FROM (SELECT customer FROM seen GROUP BY customer HAVING count(*) >= 2)",
    ),
    "lapsed": (
        BUY | {"count": {"op": "=", "value": 0}, "window": {"rolling": "90d"}},
        "SELECT count(*) FROM (SELECT customer FROM seen GROUP BY customer HAVING max(t) < $m - 90 * $d)",
    ),
    "spent": (
        {"aggregate": "sum", "property": "dollars", "of": BUY, "is": {"value": 100}, "window": {"rolling": "365d"}},
        "SELECT count(*) FROM (SELECT customer FROM seen WHERE t >= $m - 365 * $d GROUP BY customer"
        " HAVING sum(dollars) >= 100)",
    ),
    "new": (
        {"first": BUY, "within": {"rolling": "30d"}},
        "SELECT count(*) FROM (SELECT customer FROM seen GROUP BY customer HAVING min(t) >= $m - 30 * $d)",
    ),
    "gone": (
        {"last": BUY, "before": {"rolling": "180d"}},
        "SELECT count(*) FROM (SELECT customer FROM seen GROUP BY customer HAVING max(t) < $m - 180 * $d)",
    ),
    "days": (
        {"days": BUY, "count": {"value": 2}, "window": {"calendar": {"days": 28}}},
        "SELECT count(*) FROM (SELECT customer FROM seen WHERE t // $d > $m // $d - 28 GROUP BY customer"
        " HAVING count(DISTINCT t // $d) >= 2)",
    ),
    "once": (
        BUY
        | {
            "where": [{"property": "dollars", "op": ">=", "value": 20}],
            "count": {"op": "=", "value": 1},
            "window": WEEK,
        },
        "SELECT count(*) FROM (SELECT customer FROM seen WHERE t // $d > $m // $d - 7 AND dollars >= 20"
        " GROUP BY customer HAVING count(*) = 1)",
    ),
    "then": (
        {"sequence": [MANY, ONE], "within": "30d", "window": {"rolling": "60d"}},
        "SELECT count(DISTINCT b.customer) FROM seen a JOIN seen b ON a.customer = b.customer AND a.cds >= 3"
        " AND b.cds < 2 AND b.t > a.t AND b.t - a.t <= 30 * $d WHERE b.t >= $m - 60 * $d",
    ),
    "back": (
        {"restarted": BUY, "after": "180d", "window": {"rolling": "60d"}},
        "SELECT count(DISTINCT customer) FROM (SELECT customer, t, t - lag(t) OVER (PARTITION BY customer ORDER BY t)"
        " AS pause FROM seen) WHERE pause >= 180 * $d AND t >= $m - 60 * $d",
    ),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it was published; its lines are numbered from 0."""
    folder = tmp_path_factory.mktemp("cdnow")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run([*command, "-d", folder, "-r", REQUIREMENTS], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the data can't be had here: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("lifetimes/datasets/CDNOW_master.txt", folder))


def database(raw: Path) -> duckdb.DuckDBPyConnection:
    """The table `bought` of the raw file, by DuckDB's own reading of it."""
    made = duckdb.connect()
    made.execute(
        "CREATE TABLE bought AS SELECT row_number() OVER () - 1 AS line, p[1] AS customer,"
        " epoch_ms(strptime(p[2], '%Y%m%d')) AS t, p[3]::INT AS cds, p[4]::DECIMAL(10, 2) AS dollars FROM"
        " (SELECT regexp_split_to_array(trim(column0), '\\s+') AS p FROM read_csv(?, header = false,"
        " columns = {'column0': 'VARCHAR'}, delim = '\t', skip = 1))",
        [str(raw)],
    )
    return made


def state() -> ControlState:
    made = ControlState()
    commands = [
        ("partner.create", {"id": "acme", "name": "Acme"}),
        *(("segment.create", {"id": name, "name": name, "condition": c}) for name, (c, _) in SEGMENTS.items()),
    ]
    for offset, (verb, data) in enumerate(commands):
        command = Command(id=f"command-{offset}", command=verb, partner="acme", data=data)
        assert made.apply(offset, START - DAY, command.to_json()).status == 201
    return made


def purchases(raw: Path) -> list[tuple[int, dict[str, Any]]]:
    """(time, event as intake writes it) of each line, the oldest first."""
    found = []
    for line, text in enumerate(raw.read_text().splitlines()[1:]):
        customer, day, cds, dollars = text.split()
        time = START + DAY * (date.fromisoformat(day) - date(1997, 1, 1)).days
        event = {"id": str(line), "partner": "acme", "source": "online-store", "channel": "Web", "type": "track"}
        event |= {"name": "Bought", "time": time, "received": time, "user_id": customer, "control": 0}
        found.append((time, event | {"properties": {"cds": int(cds), "dollars": float(dollars)}}))
    return sorted(found, key=lambda item: item[0])


@pytest.mark.parametrize("share", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_counts_of_real_purchases_equal_sql_at_every_moment(raw: Path, share: int) -> None:
    """Of all customers; of every tenth where there is less time."""
    sql = database(raw)
    assert sql.execute("SELECT count(*), count(DISTINCT customer) FROM bought").fetchone() == (ROWS, 23_570)
    sql.execute(f"DELETE FROM bought WHERE customer::INT % {share} > 0")
    world = FanoutWorld(state(), 2, START - 1)
    bought = purchases(raw)
    left = iter(each for each in bought if int(each[1]["user_id"]) % share == 0)
    pending = next(left, None)
    told = 0
    # From the fifth week on, every 27 days and a little: at no particular time of the day.
    for step in range(20):
        moment = START + 30 * DAY + step * (27 * DAY + 1_234_567)
        while pending is not None and pending[0] <= moment:
            world.send(f"acme|u|{pending[1]['user_id']}", pending[1])
            pending = next(left, None)
        for lane in world.events:
            lane.append((WATERMARK_KEY, orjson.dumps({"received": {"0": moment, "1": moment}})))
        world.drain()
        world.tick()
        sql.execute(f"CREATE OR REPLACE VIEW seen AS SELECT * FROM bought WHERE t <= {moment}")
        counts = world.counts()
        for name, (_, query) in SEGMENTS.items():
            wanted = sql.execute(query.replace("$m", f"{moment}::BIGINT").replace("$d", f"{DAY}::BIGINT")).fetchone()
            assert wanted is not None
            assert counts.get((name, "*", "*"), (0, 0))[0] == wanted[0], (name, step)
            told += wanted[0]
    assert told > 200_000 / share
