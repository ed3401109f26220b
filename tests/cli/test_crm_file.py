"""Files of customers as they are found: encodings, separators, gzip, rows that can't be read; and parts of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest

from pipeline.bridges.rows import Row
from pipeline.cli.crm_file import CustomerFile, FileFault
from pipeline.cli.crm_upload import _parts

ROWS = [{"id": "1", "name": "Åsa; é"}, {"id": "2", "note": 'two\nlines, "quoted"'}]


def table(separator: str) -> str:
    lines = ["id|name|note", '1|"Åsa; é"', '2||"two\nlines, ""quoted"""', ""]
    return "\r\n".join(lines).replace("|", separator)


def read(path: Path, content: bytes, **how: str | None) -> list[Row]:
    path.write_bytes(content)
    given: dict[str, str | None] = {"format": None, "separator": None, "encoding": None} | how
    return list(CustomerFile.of(path, **given).rows(lambda place: None))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_is_read_whatever_wrote_it(tmp_path: Path, encoding: str, separator: str, packed: bool) -> None:
    text = table(separator)
    content = text.encode(encoding) if encoding != "utf-16-be" else ("\ufeff" + text).encode(encoding)
    name = "customers.csv.gz" if packed else "customers.csv"
    rows = read(tmp_path / name, gzip.compress(content) if packed else content)
    assert [(row.number, orjson.loads(row.body), row.fault) for row in rows] == [(1, ROWS[0], None), (2, ROWS[1], None)]


def test_an_old_encoding_is_named(tmp_path: Path) -> None:
    content = table(";").encode("cp1252")
    rows = read(tmp_path / "a.csv", content, encoding="cp1252")
    assert orjson.loads(rows[0].body) == ROWS[0]
    # Not named, its rows are told one by one.
    assert [row.fault for row in read(tmp_path / "a.csv", content)] == ["the row is not UTF-8", None]


def test_lines_of_json(tmp_path: Path) -> None:
    content = "\n".join(orjson.dumps(row).decode() for row in ROWS).encode("utf-16")
    for name in ("a.ndjson", "a.jsonl.gz"):
        packed = gzip.compress(content) if name.endswith("gz") else content
        assert [orjson.loads(row.body) for row in read(tmp_path / name, packed)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "how", "message"),
    [
        ("a.xlsx", b"PK", {}, "--format"),
        ("a.csv", b"", {"separator": "::"}, "one character"),
        ("a.csv", b"", {"encoding": "klingon"}, "klingon"),
        ("a.csv", b"id,id\n1,2\n", {}, "twice"),
        ("a.csv", b"id,,x\n1,2,3\n", {}, "no header"),
        ("a.csv", gzip.compress(b"id\n1\n", mtime=0)[:-9], {}, "no whole gzip"),
        ("a.csv", b"\xff\xfei", {}, "is not utf-16"),
    ],
)
def test_what_is_no_file_of_customers_is_told(
    tmp_path: Path, name: str, content: bytes, how: dict[str, str], message: str
) -> None:
    with pytest.raises(FileFault, match=message):
        read(tmp_path / name, content, **how)


def test_the_same_file_read_the_same_way_is_the_same_upload(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id\n1\n")
    ids = [
        CustomerFile.of(path, None, separator, None).upload_id(salt, lambda read: None)
        for separator, salt in ((None, ""), (None, ""), (";", ""), (None, "again"))
    ]
    path.write_bytes(b"id\n2\n")
    ids.append(CustomerFile.of(path, None, None, None).upload_id("", lambda read: None))
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_parts_are_bounded_and_hold_every_row_once_in_its_place() -> None:
    bodies = [b'{"id":"%d"}' % n for n in range(2300)]
    bodies[700] = b'{"bio":"%b"}' % (b"x" * 499_000)
    bodies[1500] = b'{"bio":"%b"}' % (b"x" * 600_000)
    bodies[1600] = b"not json"
    rows = [Row(n + 1, body, "torn" if n in (0, 999) else None) for n, body in enumerate(bodies)]
    found: list[object] = []
    faults: list[int] = []
    for part in _parts(iter(rows)):
        assert len(part.body) < 1 << 20
        told = orjson.loads(part.body)
        assert told["first"] == part.first == len(found) + 1
        found += told["rows"]
        faults += [each["row"] for each in told["refused"]]
        assert part.last == len(found)
    assert faults == [1, 1000, 1501, 1601]
    assert [row is None for row in found] == [n + 1 in faults for n in range(2300)]
