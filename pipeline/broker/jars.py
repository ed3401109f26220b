"""Apache Kafka's jars: a pinned list with hashes, fetched once per user.

``jars.lock`` holds a line a jar: ``group:artifact:version``, its bytes, its SHA-256. The list is made by
jgo's resolver (``python -m pipeline.broker.jars`` writes it anew); starting a broker resolves nothing, it
fetches and checks exactly what the list says.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from pipeline.broker.errors import BrokerError

__all__ = ["KAFKA_VERSION", "Jar", "Report", "cache_dir", "classpath", "fetched", "locked"]

KAFKA_VERSION = "4.2.2"
# Kafka logs through SLF4J 1.7; without this binding a broker is mute.
SLF4J_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
LOCK = Path(__file__).with_name("jars.lock")
DOWNLOADS = 8

Report = Callable[[str, int, int], None]
"""``report(stage, done, total)``: bytes where a total is known, 0 and 0 where not."""


@dataclass(frozen=True)
class Jar:
    """One line of ``jars.lock``; ``size`` in bytes, ``sha256`` in hex."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def cache_dir() -> Path:
    """Where a user's jars live: ``$XDG_CACHE_HOME/headrace`` or ``~/.cache/headrace``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace"


def locked() -> list[Jar]:
    """The jars of ``jars.lock``, in classpath order."""
    out = []
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinate, size, sha256 = line.split()
            group, artifact, version = coordinate.split(":")
            out.append(Jar(group, artifact, version, int(size), sha256))
    return out


def classpath(report: Report) -> list[Path]:
    """Paths of all jars, each with the hash that ``jars.lock`` gives; fetches what is missing.

    Raises BrokerError when a jar cannot be fetched or its bytes are not the ones expected.
    """
    return fetched(locked(), cache_dir() / "jars", report)


def fetched(jars: list[Jar], repository: Path, report: Report) -> list[Path]:
    """Paths of ``jars``, each with its hash; fetches what is missing. Raises BrokerError as `classpath`."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with _only_one(repository / ".lock"):
            missing = [jar for jar in jars if not _intact(_path(repository, jar), jar)]
            if missing:
                _fetch_all(missing, repository, report)
    except OSError as error:
        raise BrokerError(
            f"cannot keep Kafka's jars in {repository}: {error}; free some space or point "
            "XDG_CACHE_HOME at a directory that can be written"
        ) from error
    return [_path(repository, jar) for jar in jars]


def _path(repository: Path, jar: Jar) -> Path:
    folder = repository.joinpath(*jar.group.split("."), jar.artifact, jar.version)
    return folder / f"{jar.artifact}-{jar.version}.jar"


def _intact(path: Path, jar: Jar) -> bool:
    return path.is_file() and path.stat().st_size == jar.size and _sha256(path) == jar.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Two processes that start at once must not write the same jar."""
    with path.open("w") as file:
        flock(file, LOCK_EX)
        yield


def _fetch_all(missing: list[Jar], repository: Path, report: Report) -> None:
    stage = f"Fetching Apache Kafka {KAFKA_VERSION}"
    total, done, guard = sum(jar.size for jar in missing), 0, threading.Lock()

    def advance(count: int) -> None:
        nonlocal done
        with guard:
            done += count
            report(stage, done, total)

    report(stage, 0, total)
    context = _context(repository, advance)
    with ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="jars") as pool:
        # A set of futures would hide all failures but the first; the first is what a person needs.
        for _ in pool.map(lambda jar: _fetch(context, jar, _path(repository, jar)), missing):
            pass


def _fetch(context: Any, jar: Jar, path: Path) -> None:
    # requests comes with jgo; both belong to the extra `embedded`.
    from requests import RequestException

    path.unlink(missing_ok=True)
    try:
        context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (RequestException, RuntimeError) as error:
        path.unlink(missing_ok=True)
        raise BrokerError(
            f"cannot download {jar} (a part of Apache Kafka {KAFKA_VERSION}): {error}. Check the network "
            "or the proxy and start again, or set KAFKA_BOOTSTRAP_SERVERS to use an existing cluster"
        ) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if not _intact(path, jar):
        path.unlink(missing_ok=True)
        raise BrokerError(
            f"the downloaded {jar} is not the file expected (SHA-256 differs from {LOCK.name}): a proxy or "
            "mirror altered it, or it broke on the way; start again, and check the mirror if it happens twice"
        )


def _context(repository: Path, advance: Callable[[int], None]) -> Any:
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise BrokerError(
            f"the embedded Kafka needs a package that is not installed ({error.name}): install "
            "headrace[embedded], or set KAFKA_BOOTSTRAP_SERVERS to use an existing cluster"
        ) from error

    @contextmanager
    def progress(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield advance

    # A site's mirror, from jgo's own configuration file, comes before the default repository.
    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    resolver = PythonResolver(progress_callback=progress)
    return MavenContext(resolver=resolver, repo_cache=repository, remote_repos=remotes, timeout=30)


def _write_lock() -> None:
    """Resolve Kafka anew and write ``jars.lock``. Development only."""
    from jgo.parse import Coordinate

    repository = cache_dir() / "jars"
    context = _context(repository, lambda _count: None)
    # kafka-tools wants Connect (a web server and 50 jars) for two Connect commands that are not ours.
    connect = [context.project("org.apache.kafka", "connect-runtime")]
    roots = [
        context.create_dependency(f"org.apache.kafka:{name}:{KAFKA_VERSION}", connect)
        for name in ("kafka_2.13", "kafka-tools")
    ]
    # "!": the binding's own dependency management must not choose the versions of Kafka's jars.
    roots.append(context.create_dependency(Coordinate.parse(f"{SLF4J_BINDING}!")))
    inputs, transitive = context.resolver.resolve(roots)
    lines = [f"# Apache Kafka {KAFKA_VERSION}. Written by: python -m pipeline.broker.jars"]
    for dependency in [*inputs, *transitive]:
        path = dependency.artifact.resolve()
        coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
        lines.append(f"{coordinate} {path.stat().st_size} {_sha256(path)}")
    LOCK.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{LOCK.name}: {len(lines) - 1} jars\n")


if __name__ == "__main__":
    _write_lock()
