"""What stands in the lake: the records of `lake.files`, and which files they come to."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
from pydantic import Field

from pipeline.models.base import Millis, Model, Slug

__all__ = ["LakeFile", "LakePosition", "Manifest", "file_key", "position_key"]


class LakeFile(Model):
    """A Parquet file of one kind, partner and day, that one lane has written. Key: its path.

    ``added``, ``removed``: the lane's commit that did it. It is part of the lake from one until the other.
    """

    path: str = Field(description="below the lake's root: <kind>/<partner>/<day>/<lane>-<commit>-<random>.parquet")
    kind: str = Field(description="the table")
    partner: Slug
    day: str = Field(description="of the rows, in UTC: 2026-01-31")
    lane: int
    rows: int
    bytes: int
    first: Millis = Field(description="the oldest row's time")
    last: Millis = Field(description="the newest row's time")
    added: int
    removed: int | None = None
    removed_at: Millis | None = Field(None, description="a while later the file itself is deleted")


class LakePosition(Model):
    """How far a lane of a kind is: the last record of each of its transactions. Key: ``~<kind>|<lane>``."""

    kind: str
    lane: int
    commit: int
    next: int = Field(description="offset of the kind's topic from which on nothing is in files yet")
    first: int = Field(0, description="offset of the first row that is in files, and of all from there to `next`")
    since: Millis = Field(0, description="when that row came to the topic; 0: there were none before it")
    erased: int = Field(0, description="offset of `erasures` from which on rows may still be in files")


def file_key(path: str) -> bytes:
    """A path never begins with ``~``: no kind's name does."""
    return path.encode()


def position_key(kind: str, lane: int) -> bytes:
    return f"~{kind}|{lane}".encode()


class Manifest:
    """Records of `lake.files` of one kind as they come: a lane's in order, though a transaction may come in pieces."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.positions: dict[int, LakePosition] = {}
        self._files: dict[str, LakeFile] = {}

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take a record; those of other kinds are none of ours. Raises ValueError for one that the lake cannot have
        written."""
        if value is None:
            self._files.pop(key.decode(), None)
        elif key.startswith(b"~"):
            position = LakePosition.model_validate(orjson.loads(value))
            if position.kind == self.kind:
                self.positions[position.lane] = position
        else:
            file = LakeFile.model_validate(orjson.loads(value))
            if file.kind == self.kind:
                self._files[file.path] = file

    def next(self, lane: int) -> int:
        """The offset from which on nothing is in files yet."""
        position = self.positions.get(lane)
        return 0 if position is None else position.next

    def commit(self, lane: int) -> int:
        """The number of the lane's last commit; the first is 1."""
        position = self.positions.get(lane)
        return 0 if position is None else position.commit

    def files(self, partner: str | None = None) -> Iterator[LakeFile]:
        """What is in the lake now: each record of the topic before `next` once."""
        for file in self._files.values():
            if partner is None or file.partner == partner:
                commit = self.commit(file.lane)
                if file.added <= commit and (file.removed is None or file.removed > commit):
                    yield file

    def all_of(self, lane: int) -> list[LakeFile]:
        """Files of a lane that are known, removed ones too."""
        return [file for file in self._files.values() if file.lane == lane]

    def removed(self, lane: int) -> Iterator[LakeFile]:
        """Files of a lane that are no part of the lake any more, and are still there."""
        for file in self.all_of(lane):
            if file.removed is not None and file.removed <= self.commit(lane):
                yield file
