"""Fetches the jars of Apache Kafka's class path once, and verifies them at every start.

kafka_jars.lock lists them with size and SHA-256. They come from Maven Central only (through the proxy in HTTPS_PROXY),
and are stored in the user's cache (core/scratch.py).
"""

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from lifeline import INSTALL
from lifeline.core.errors import ActionableError
from lifeline.core.scratch import cache_dir

KAFKA_VERSION = "4.3.1"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
LOCK = Path(__file__).with_suffix(".lock")
CLUSTER_ADVICE = "or name a running cluster with --bootstrap-servers"
_DOWNLOADS = 8
_TIMEOUT_S = 30


class BrokerError(ActionableError):
    """Kafka cannot be fetched or run."""


class FetchProgress(NamedTuple):
    """The progress of a fetch."""

    artifact: int
    """Artifacts fetched so far."""
    artifacts: int
    """Artifacts in total."""
    size_bytes: int
    """Bytes fetched so far."""
    name: str
    """The latest artifact."""


Progress = Callable[[FetchProgress], None]


class Jar(NamedTuple):
    """A jar of the class path."""

    sha256: str
    size_bytes: int
    group: str
    artifact: str
    version: str

    @property
    def name(self) -> str:
        """The file name in the cache."""
        return f"{self.group}.{self.artifact}-{self.version}.jar"

    @classmethod
    def of(cls, line: str) -> Self:
        """Parse a line of the lock: SHA-256, size in bytes, group:artifact:version."""
        sha256, size, coordinates = line.split()
        group, artifact, version = coordinates.split(":")
        return cls(sha256, int(size), group, artifact, version)

    def matches(self, path: Path) -> bool:
        """Return whether a file has this jar's size and SHA-256; raises OSError."""
        with path.open("rb") as file:
            return (
                os.fstat(file.fileno()).st_size == self.size_bytes
                and hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            )


def locked_jars() -> list[Jar]:
    """Return the jars of the lock, in the order of the class path."""
    return [Jar.of(line) for line in LOCK.read_text().splitlines()]


def fetch_kafka(progress: Progress | None = None, *, cache: Path | None = None) -> list[Path]:
    """Return the jars of Kafka's class path, verified against the lock; fetch all if one is missing.

    They are fetched into a temporary directory, which is renamed once it is complete, so an interrupted fetch never
    looks complete. Raises BrokerError, ScratchError.
    """
    jars = locked_jars()
    base = cache or cache_dir()
    home = base / f"kafka-{KAFKA_VERSION}"
    if paths := _cached(home, jars):
        return paths
    partial: Path | None = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"kafka-{KAFKA_VERSION}.", dir=base))
        _download(jars, partial, progress or (lambda _: None))
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    except OSError as error:
        # Another process may have fetched them at the same time.
        if not (error.errno in {errno.ENOTEMPTY, errno.EEXIST} and _cached(home, jars)):
            raise _fetch_error(error, base) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return _cached(home, jars)


def _cached(home: Path, jars: list[Jar]) -> list[Path]:
    """Return the paths of all jars in the cache, or none if one is missing; raises BrokerError if one differs."""
    paths = [home / jar.name for jar in jars]
    if not all(path.exists() for path in paths):
        return []
    for jar, path in zip(jars, paths, strict=True):
        try:
            is_unchanged = jar.matches(path)
        except OSError as error:
            raise BrokerError(f"{path} cannot be read ({error.strerror}): remove {home} to fetch it again") from error
        if not is_unchanged:
            raise BrokerError(
                f"{path} is not the jar that {LOCK.name} names (another size or SHA-256), so Kafka is not started: "
                f"find out who changed it; then remove {home} to fetch it again, {CLUSTER_ADVICE}"
            )
    return paths


def _fetch_error(error: OSError, base: Path) -> BrokerError:
    if error.errno == errno.ENOSPC:
        return BrokerError(
            f"no space left for Kafka's 45 MB under {base}: free some, or set XDG_CACHE_HOME to another disk"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return BrokerError(f"the cache {base} cannot be written: make it writable, or set XDG_CACHE_HOME")
    return BrokerError(
        f"Kafka {KAFKA_VERSION} could not be fetched ({type(error).__name__}): check the network "
        f"and HTTPS_PROXY and try again, {CLUSTER_ADVICE}"
    )


def _maven(repository: Path) -> Any:  # noqa: ANN401 - jgo ships no types
    """Return a client of Maven Central only: it uses neither jgo's settings nor the user's own repository."""
    try:
        # Only the extra `broker` has them.
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise BrokerError(f"jgo is not installed: {INSTALL.format(extra='broker')}, {CLUSTER_ADVICE}") from error
    return MavenContext(
        repo_cache=repository, local_repos=[], remote_repos={"central": MAVEN_CENTRAL_URL}, timeout=_TIMEOUT_S
    )


def _download(jars: list[Jar], into: Path, progress: Progress) -> None:
    maven = _maven(into / "repository")

    def download(jar: Jar) -> Jar:
        path = into / jar.name
        maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve().rename(path)
        if not jar.matches(path):
            raise BrokerError(
                f"{jar.name} has another size or SHA-256 than in {LOCK.name}, so nothing was stored: find out "
                f"what answers instead of Maven Central (a proxy?), and try again, {CLUSTER_ADVICE}"
            )
        return jar

    progress(FetchProgress(0, len(jars), 0, "started"))
    count = size = 0
    try:
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            tasks = [pool.submit(download, jar) for jar in jars]
            try:
                for task in as_completed(tasks):
                    jar = task.result()
                    count, size = count + 1, size + jar.size_bytes
                    progress(FetchProgress(count, len(jars), size, jar.name))
            finally:
                pool.shutdown(cancel_futures=True)
    except RuntimeError as error:
        raise BrokerError(f"a part of Kafka was not found: {error}. Try again later, {CLUSTER_ADVICE}") from error
    shutil.rmtree(into / "repository")


def resolve(repository: Path) -> list[Jar]:
    """Return the jars that `COORDINATES` need, by Maven Central, to write a new lock."""
    from jgo.parse import Coordinate  # noqa: PLC0415 - only the extra `broker` has it

    maven = _maven(repository)
    # raw: the versions that log4j's dependency management sets (an old kafka-clients) must not override Kafka's.
    coordinates = [replace(Coordinate.parse(text), scope="compile", raw=True) for text in COORDINATES]
    direct, transitive = maven.resolver.resolve([maven.create_dependency(coordinate) for coordinate in coordinates])
    artifacts = [
        dependency.artifact for dependency in (*direct, *transitive) if dependency.scope in {"compile", "runtime"}
    ]
    jars = []
    for artifact in artifacts:
        with artifact.resolve().open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
        jars.append(Jar(sha256, size, artifact.groupId, artifact.artifactId, artifact.version))
    return sorted(jars, key=lambda jar: jar.name)


if __name__ == "__main__":
    # `make lock`
    with tempfile.TemporaryDirectory() as scratch:
        for jar in resolve(Path(scratch)):
            sys.stdout.write(f"{jar.sha256} {jar.size_bytes} {jar.group}:{jar.artifact}:{jar.version}\n")
