"""Parquet files in a folder of this machine. Dedup key: a file's name, made of the ids in it (as `s3`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from pipeline.models.base import Millis
from pipeline.models.delivery import Dispatch
from pipeline.sinks.base import BatchConfig, BatchSink, Classified
from pipeline.sinks.files import NewFile
from pipeline.sinks.rows import name_of, parquet_of, row_of

__all__ = ["ParquetConfig", "ParquetSink"]


class ParquetConfig(BatchConfig):
    """``folder``: below one that the operator allows (``HEADRACE_ALLOW_FOLDERS``)."""

    folder: str = Field(min_length=1, max_length=1000)
    linger_ms: int = Field(5_000, ge=0, le=10_000)
    max_in_flight: int = Field(2, ge=1, le=1000)


class ParquetSink(BatchSink[ParquetConfig]):
    """It has no secret."""

    kind = "parquet"
    Config = ParquetConfig
    most = 10_000
    most_bytes = 16 << 20
    whole = True

    def part(self, dispatch: Dispatch, config: ParquetConfig, now: Millis) -> bytes:
        """A row (`rows`)."""
        return row_of(self.told(dispatch, config))

    def request_of(self, parts: Sequence[bytes], config: ParquetConfig, secret: str | None, now: Millis) -> NewFile:
        """A whole file, or none."""
        return NewFile(config.folder, name_of(parts), parquet_of(parts), len(parts))

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Classified:
        """A file that is written is written."""
        return Classified("ok")
