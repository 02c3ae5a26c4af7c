"""The environment of one measurement: topics of its own, and nodes with directories of their own."""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lifeline.config import Settings
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import create_topics, delete_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import Event, NodeProcess, settings_for

READY_S = 900.0


@dataclass(frozen=True, slots=True)
class Environment:
    """Temporary topics and a directory."""

    settings: Settings
    path: Path

    @property
    def kafka(self) -> KafkaSettings:
        """The cluster and the topics."""
        return self.settings.kafka

    def settings_of(self, name: str, **flags: object) -> Settings:
        """Return the settings of a node with a group and a directory of its own; a key's dots are ``__`` in `flags`."""
        path = self.path / name
        path.mkdir()
        defaults: dict[str, object] = {
            "kafka.actions_topic": self.kafka.actions_topic,
            "kafka.items_topic": self.kafka.items_topic,
            "kafka.group_id": f"{self.kafka.group_id}-{name}",
            "kafka.partitions": self.kafka.partitions,
        }
        overrides = {key.replace("__", "."): value for key, value in flags.items()}
        return settings_for(self.kafka.bootstrap_servers, path, self.settings.vocabulary, flags=defaults | overrides)

    def node(self, name: str, **flags: object) -> NodeProcess:
        """Return a node over the topics; nothing runs yet."""
        return NodeProcess(self.settings_of(name, **flags), self.path / name)


@contextmanager
def open_environment(bootstrap_servers: str, vocabulary: Vocabulary, **flags: object) -> Iterator[Environment]:
    """Create topics, and delete them at the end."""
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lifeline-bench-")))
        overrides = {key.replace("__", "."): value for key, value in flags.items()}
        suffix = f"-bench-{uuid.uuid4().hex[:8]}"
        settings = settings_for(bootstrap_servers, path, vocabulary, suffix=suffix, flags=overrides)
        create_topics(settings.kafka)
        stack.callback(delete_topics, settings.kafka)
        yield Environment(settings, path)


class Moments:
    """Follows a node's log: the first time of each event and state, seconds since 1970."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.of_partition: dict[tuple[int, str], float] = {}

    def __call__(self, event: Event) -> None:
        """Take one line of the log."""
        at = datetime.fromisoformat(str(event.get("timestamp"))).timestamp() if "timestamp" in event else 0.0
        what = str(event.get("event"))
        if what == "partition":
            self.of_partition.setdefault((int(event["partition"]), str(event["state"])), at)
            what = str(event["state"])
        self.first.setdefault(what, at)


def start_and_follow(node: NodeProcess, also: Callable[[Event], None] = lambda _: None) -> Moments:
    """Start a node, and return what it logged until it was ready."""
    moments = Moments()

    def follow(event: Event) -> None:
        moments(event)
        also(event)

    node.start()
    node.wait_ready(READY_S, follow)
    return moments


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process of this machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process of this machine."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no resident memory: it has ended")
