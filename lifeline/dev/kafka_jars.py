"""The jars of Apache Kafka's class path: which they are, where they lie, and that they are what they should be.

kafka_jars.lock names all of them, with their size and SHA-256. They are fetched by that list, from Maven Central alone
(through the proxy that HTTPS_PROXY names), into the user's cache, and every start compares each with it.
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

KAFKA_VERSION = "4.3.1"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
LOCK = Path(__file__).with_suffix(".lock")
ELSEWHERE = "or name a running cluster with --bootstrap-servers"
_DOWNLOADS = 8
_TIMEOUT_S = 30


class BrokerError(Exception):
    """Kafka could not be obtained or run; the message ends in what to do."""


class FetchProgress(NamedTuple):
    """How far a fetch has come."""

    artifact: int
    """Artifacts that are here."""
    artifacts: int
    """Artifacts in all."""
    size_bytes: int
    """Bytes of those that are here."""
    name: str
    """The artifact that came last."""


Progress = Callable[[FetchProgress], None]


class Jar(NamedTuple):
    """One jar of the class path."""

    sha256: str
    size_bytes: int
    group: str
    artifact: str
    version: str

    @property
    def name(self) -> str:
        """Its file in the cache."""
        return f"{self.group}.{self.artifact}-{self.version}.jar"

    @classmethod
    def of(cls, line: str) -> Self:
        """Read a line of the lock: SHA-256, size in bytes, group:artifact:version."""
        sha256, size, coordinates = line.split()
        group, artifact, version = coordinates.split(":")
        return cls(sha256, int(size), group, artifact, version)

    def matches(self, path: Path) -> bool:
        """Say whether a file has this jar's bytes; raises OSError."""
        with path.open("rb") as file:
            return (
                os.fstat(file.fileno()).st_size == self.size_bytes
                and hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            )


def locked() -> list[Jar]:
    """Return every jar of the class path, in its order."""
    return [Jar.of(line) for line in LOCK.read_text().splitlines()]


def cache_dir() -> Path:
    """Return the user's cache: ``$XDG_CACHE_HOME/lifeline``, or ``~/.cache/lifeline``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "lifeline"


def fetch_kafka(progress: Progress | None = None, *, cache: Path | None = None) -> list[Path]:
    """Return the jars of Kafka's class path, each compared with the lock; fetch them when some are not there.

    Everything comes into a directory aside, which is renamed once it is whole: a fetch that was cut off
    leaves nothing that could be taken for a complete one. Raises BrokerError.
    """
    jars = locked()
    base = cache or cache_dir()
    home = base / f"kafka-{KAFKA_VERSION}"
    if paths := _cached(home, jars):
        return paths
    aside: Path | None = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"kafka-{KAFKA_VERSION}.", dir=base))
        _download(jars, aside, progress or (lambda _: None))
        shutil.rmtree(home, ignore_errors=True)
        aside.rename(home)
    except OSError as error:
        # Another process may have come first.
        if not (error.errno in {errno.ENOTEMPTY, errno.EEXIST} and _cached(home, jars)):
            raise _fetch_error(error, base) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return _cached(home, jars)


def _cached(home: Path, jars: list[Jar]) -> list[Path]:
    """Return the jars of a complete cache, or nothing when one is missing; raises BrokerError when one differs."""
    paths = [home / jar.name for jar in jars]
    if not all(path.exists() for path in paths):
        return []
    for jar, path in zip(jars, paths, strict=True):
        try:
            same = jar.matches(path)
        except OSError as error:
            raise BrokerError(
                f"{path} cannot be read ({error.strerror}): remove {home}, and it is fetched again"
            ) from error
        if not same:
            raise BrokerError(
                f"{path} is not the jar that {LOCK.name} names (another size or SHA-256), so Kafka is not started: "
                f"find out who changed it; remove {home}, and it is fetched again, {ELSEWHERE}"
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
        f"and HTTPS_PROXY and try again, {ELSEWHERE}"
    )


def _maven(repository: Path) -> Any:  # noqa: ANN401 - jgo ships no types
    """Return what asks Maven Central alone: neither jgo's settings nor the user's own repository are read."""
    try:
        # They come with the broker extra alone.
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise BrokerError(f"jgo is not installed: {INSTALL.format(extra='broker')}, {ELSEWHERE}") from error
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
                f"{jar.name} came with another size or SHA-256 than {LOCK.name} has, so nothing was kept: find out "
                f"what answers for Maven Central (is there a proxy?), and try again, {ELSEWHERE}"
            )
        return jar

    progress(FetchProgress(0, len(jars), 0, "begun"))
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
        raise BrokerError(f"a part of Kafka was not found: {error}. Try again later, {ELSEWHERE}") from error
    shutil.rmtree(into / "repository")


def resolve(aside: Path) -> list[Jar]:
    """Return what Maven Central says that `COORDINATES` need today: the lock of another version is made of it."""
    from jgo.parse import Coordinate  # noqa: PLC0415 - comes with the broker extra alone

    maven = _maven(aside)
    # raw: the versions that log4j manages (an old kafka-clients among them) must not rule Kafka's.
    wanted = [replace(Coordinate.parse(each), scope="compile", raw=True) for each in COORDINATES]
    direct, transitive = maven.resolver.resolve([maven.create_dependency(each) for each in wanted])
    artifacts = [each.artifact for each in (*direct, *transitive) if each.scope in {"compile", "runtime"}]
    found = []
    for artifact in artifacts:
        with artifact.resolve().open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
        found.append(Jar(sha256, size, artifact.groupId, artifact.artifactId, artifact.version))
    return sorted(found, key=lambda jar: jar.name)


if __name__ == "__main__":
    # `make lock`
    with tempfile.TemporaryDirectory() as scratch:
        for each in resolve(Path(scratch)):
            sys.stdout.write(f"{each.sha256} {each.size_bytes} {each.group}:{each.artifact}:{each.version}\n")
