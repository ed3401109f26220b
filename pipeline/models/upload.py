"""Uploads of files of customers: what is remembered of one (`crm.uploads`), and what is told of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.models.base import Millis, Model

__all__ = ["RefusedRow", "Upload", "UploadHead", "UploadPart"]

Row = Annotated[int, Field(ge=1, le=2_000_000_000)]


class RefusedRow(Model):
    """A row that is no customer. ``column``: where in it, if anywhere."""

    row: Row
    column: Annotated[str, Field(max_length=100)] | None = None
    code: Annotated[str, Field(max_length=60)]
    message: Annotated[str, Field(max_length=300)]


class UploadPart(Model):
    """Rows ``first`` to ``last`` of an upload are done: Kafka has the customers, and ``refused`` are told here."""

    first: Row
    last: Row
    taken: int
    refused: list[RefusedRow] = Field(default_factory=list)
    at: Millis


class UploadHead(Model):
    """The upload's file name, and the number of its rows once all of them were sent."""

    name: Annotated[str, Field(max_length=300)]
    rows: Annotated[int, Field(ge=0, le=2_000_000_000)] | None = None
    at: Millis


class Upload(Model):
    """How far an upload is. ``done``: [first, last] of what is done, in order; ``complete``: all of it is."""

    id: str = Field(description="of the file's bytes and of how they are read: the same file is the same upload")
    name: str | None
    rows: int | None
    taken: int
    refused: int
    done: list[Annotated[list[int], Field(min_length=2, max_length=2)]]
    complete: bool
    updated: Millis | None
