"""Where the lake's files are: a folder, or a prefix of an S3-compatible store (through pyarrow)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipeline.settings import Settings

__all__ = ["LakeStore", "open_store"]

_ROWS = 131_072


class LakeStore:
    """Files by their paths below a root. All of it blocks: call it in a thread. Raises OSError."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")

    def path(self, path: str) -> str:
        """As the file system knows it."""
        return f"{self.root}/{path}"

    def write(self, path: str, table: pa.Table) -> int:
        """Write a file that was not there, whole or not at all; its bytes."""
        target = self.path(path)
        # An object appears when all of it is there; a file of a folder only then has its name.
        draft = f"{target}.draft" if isinstance(self.filesystem, fs.LocalFileSystem) else target
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        pq.write_table(table, draft, filesystem=self.filesystem, compression="zstd", row_group_size=_ROWS)
        if draft != target:
            self.filesystem.move(draft, target)
        return int(self.filesystem.get_file_info(target).size)

    def read(self, paths: Iterable[str], schema: pa.Schema) -> pa.Table:
        """These files one after the other, with the columns of ``schema``."""
        tables = (pq.read_table(self.path(path), filesystem=self.filesystem) for path in paths)
        return pa.concat_tables(_with(table, schema) for table in tables)

    def delete(self, paths: Iterable[str]) -> None:
        """Delete files; one that is not there is deleted."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(path))

    def listed(self, folder: str, beginning: str) -> list[str]:
        """The paths of all files below a folder whose names begin so."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        return [
            info.path.removeprefix(f"{self.root}/")
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and info.base_name.startswith(beginning)
        ]


def open_store(settings: Settings) -> LakeStore:
    """As ``HEADRACE_LAKE`` says: a folder, or ``s3://bucket/prefix``; ``lake`` in the data folder when it says nothing.

    Raises OSError or ValueError for what can't be one.
    """
    if settings.lake is None:
        root = (settings.data_dir / "lake").resolve()
    elif "://" in settings.lake:
        return LakeStore(*fs.FileSystem.from_uri(settings.lake))
    else:
        root = Path(settings.lake).resolve()
    root.mkdir(parents=True, exist_ok=True)
    return LakeStore(fs.LocalFileSystem(), str(root))


def _with(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of this schema or an earlier one: columns that came later are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
