"""Files of this machine as a transport: whole or not at all, and only where the operator allows."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sinks.base import SetupError
from pipeline.sinks.http import Answer, NoAnswer

__all__ = ["FileTransport", "NewFile"]


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to write; one of the same name is replaced. ``name``: below ``folder``. ``rows``: in it."""

    folder: str
    name: str
    body: bytes
    rows: int

    def shown(self) -> dict[str, Any]:
        """As the delivery log may have it."""
        return {"folder": self.folder, "name": self.name, "body": f"{self.rows:,} rows in {len(self.body):,} bytes"}


class FileTransport:
    """``allowed``: folders of the operator's. Links that lead out of them are not followed."""

    def __init__(self, allowed: Sequence[Path]) -> None:
        self._allowed = allowed

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def send(self, request: NewFile, timeout_s: float) -> Answer:
        """Write it. Raises SetupError for a folder that is not allowed or can't be written, NoAnswer else."""
        try:
            await asyncio.to_thread(self._write, request)
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise SetupError(f"the folder can't be written: {error.strerror}") from None
        except OSError as error:
            raise NoAnswer(f"the file was not written: {error.strerror}") from None
        return Answer(201, {}, b"")

    def _write(self, request: NewFile) -> None:
        root = Path(request.folder).resolve()
        if not any(root.is_relative_to(each.resolve()) for each in self._allowed):
            raise SetupError("the folder is below none that the operator allows: HEADRACE_ALLOW_FOLDERS")
        path = root / request.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(root):
            raise SetupError("a link leads out of the folder")
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with draft.open("xb") as file:
                file.write(request.body)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
