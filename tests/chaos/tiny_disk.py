"""A disk that can be made full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["TinyDisk", "tiny_disk"]

_SPARE = 64 << 10


class TinyDisk:
    """A tmpfs at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Make it as small as what is on it."""
        while not self._resize(shutil.disk_usage(self.path).used + _SPARE):
            pass  # more has been written meanwhile, and no disk gets smaller than that

    def grow(self, size: int) -> None:
        """Make room: ``size`` bytes in all."""
        assert self._resize(size)

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self.path)]
        return not subprocess.run(command, capture_output=True, check=False).returncode


@contextmanager
def tiny_disk(path: Path, size: int) -> Iterator[TinyDisk]:
    """A disk of ``size`` bytes at ``path``; skips the test where nothing may be mounted."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"MISSING: the right to mount a tmpfs ({mounted.stderr.strip()}); run as root, or in unshare -Urm")
    try:
        yield TinyDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
