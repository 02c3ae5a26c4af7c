"""Nodes of one group, each a process with a directory of its own, and what must hold of them together.

After any faults: every partition is served by exactly one node, up to the end of its log; every store in every
directory, those of dead nodes and of partitions that went elsewhere among them, holds what the judge finds right at
the offset where it stands; and every record that is no action is a dead letter.
"""

import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kafka import TopicPartition

from lifeline.config import Settings
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.broker import Broker
from lifeline.dev.node_process import NodeProcess, settings_for
from lifeline.store.fingerprint import as_text
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.recount import recount
from lifeline.store.secondary_partition import SecondaryPartition
from tests.support.chaos.judge import Judge, Verdict, reader
from tests.support.chaos.schedule import Action, Schedule

TINY: dict[str, Any] = {
    "max_explicit": 150,
    "max_impressions": 40,
    "max_explicit_age_days": 5,
    "max_impression_age_days": 1,
    "chunk_events": 16,
    "keep_unsealed": 12,
    "inline_events": 4,
    "run_segments": 3,
    "head_cache_mib": 1,
    "block_cache_mib": 8,
    "write_buffer_mib": 4,
    "max_wal_mib": 1,
}
"""Caps and shapes so small that a few thousand actions seal, trim, expire, rewrite and flush."""

SETTLE_S = 180.0
_END_S = 90.0
_AT_WORK_S = 15.0
_POLL_S = 0.1
_SERVING = "serving"


class FaultError(AssertionError):
    """The product did what it must not; the message says what, and where."""


class Member:
    """One node of the cluster, over all its processes."""

    def __init__(self, name: str, settings: Settings, path: Path) -> None:
        self.name, self.settings = name, settings
        self.process = NodeProcess(settings, path)
        self.states: dict[int, str] = {}
        """The state that the node last told of each partition."""
        self.events: list[Mapping[str, Any]] = []
        """What the present process has logged."""
        self.running = self.frozen = False
        self._ending = False

    @property
    def log(self) -> Path:
        return self.process.log

    def start(self) -> None:
        """Start it, once a process that still stops has ended."""
        if self._ending:
            self.wait_ended()
        self.states, self.events = {}, []
        self.process.start()
        self.running = True

    def kill(self) -> None:
        self.process.kill()
        self.running = self.frozen = False

    def terminate(self) -> None:
        """Ask it to stop, and return at once."""
        self.look()
        os.kill(self.process.pid, signal.SIGTERM)
        self.running, self._ending = False, True

    def wait_ended(self) -> None:
        """Wait for a node that was asked to stop; it has to end with 0."""
        # NodeProcess.stop would send the signal a second time.
        code = self.process._running().wait(_END_S)
        self.process._join()
        self._ending = False
        # A process that has not come as far as to listen for signals ends by them.
        if code != 0 and not (code == -signal.SIGTERM and not self.events):
            raise FaultError(f"{self.name} was asked to stop and ended with {code}: see {self.log}")

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)
        self.frozen = False

    def look(self) -> None:
        """Take in what it has logged; raises NodeProcessError when it has ended unasked."""
        while self.running and (event := self.process.next_event(0.0)) is not None:
            self.events.append(event)
            if event.get("event") == "partition":
                self.states[int(event["partition"])] = str(event["state"])
            if event.get("event") == "standby" and event["state"] == "diverged":
                raise FaultError(f"{self.name} has found that a fingerprint is not its owner's: {event['why']}")

    def wait_for(self, what: Callable[[Self], bool], timeout_s: float = SETTLE_S) -> None:
        """Wait until `what` holds of it."""
        deadline = time.monotonic() + timeout_s
        while not what(self):
            if time.monotonic() > deadline:
                raise FaultError(f"{self.name} never came so far: it tells of {self.states}; see {self.log}")
            self.look()
            time.sleep(_POLL_S)

    @property
    def served(self) -> set[int]:
        return {number for number, state in self.states.items() if state == _SERVING}


class Cluster:
    """A group of nodes over topics of its own. All of them are killed in the end."""

    def __init__(
        self,
        bootstrap_servers: str,
        path: Path,
        *,
        partitions: int = 4,
        broker: Broker | None = None,
        static: bool = False,
        standbys: int = 0,
        **flags: object,
    ) -> None:
        """`standbys` is how many nodes follow each partition besides its owner.

        `flags` are settings of every node by their dotted keys, with ``__`` for the dots.
        """
        self._path, self._servers, self._static = path, bootstrap_servers, static
        self._broker = broker
        self._suffix = f"-{uuid.uuid4().hex[:8]}"
        self._flags: dict[str, object] = {f"store.{key}": value for key, value in TINY.items()}
        # A dead node's partitions go to the others soon, and a batch is small, so that a fault meets many.
        self._flags |= {"kafka.session_timeout_ms": 3_000, "updater.batch_max_records": 256}
        self._flags |= {"kafka.partitions": partitions}
        self._flags |= {"updater.standby_replicas": standbys, "updater.fingerprint_every": 500}
        self._flags |= {key.replace("__", "."): value for key, value in flags.items()}
        self.settings = self._settings(path / "judge")
        create_topics(self.settings.kafka)
        self.judge = Judge(self.settings)
        self.members: dict[str, Member] = {}
        self._memory = SharedMemory(self.settings.store)
        self._dead_letters: set[tuple[int, int]] = set()

    def _settings(self, path: Path, **flags: object) -> Settings:
        path.mkdir()
        settings = {key.replace("__", "."): value for key, value in flags.items()}
        return settings_for(self._servers, path, Vocabulary(), suffix=self._suffix, flags=self._flags | settings)

    @property
    def partitions(self) -> int:
        return self.settings.kafka.partitions

    def add(self, name: str, **flags: object) -> Member:
        """Make a node; nothing runs yet."""
        if self._static:
            flags["kafka__group_instance_id"] = name
        path = self._path / name
        member = self.members[name] = Member(name, self._settings(path, **flags), path)
        return member

    def run(self, plan: Schedule) -> None:
        """Do what a schedule says, one step after the other; nodes and broker are then as it leaves them."""
        for number, name in enumerate(plan.nodes):
            member = self.members.get(name) or self.add(name)
            if number < plan.started and not member.running:
                member.start()
        for step in plan.steps:
            if step.at_work:
                self._wait_at_work(self.members[step.node])
            time.sleep(step.after_s)
            for member in self.members.values():
                member.look()
            self._do(step.action, step.node)

    def _wait_at_work(self, member: Member) -> None:
        """Wait until a node has been given partitions; while the broker is away or others are frozen it may not be."""
        deadline = time.monotonic() + _AT_WORK_S
        while not member.states and time.monotonic() < deadline:
            member.look()
            time.sleep(_POLL_S / 4)

    def _do(self, action: Action, name: str) -> None:
        match action:
            case Action.START:
                self.members[name].start()
            case Action.KILL:
                self.members[name].kill()
            case Action.TERMINATE:
                self.members[name].terminate()
            case Action.FREEZE:
                self.members[name].freeze()
            case Action.THAW:
                self.members[name].thaw()
            case Action.BROKER_KILL:
                self._own_broker().kill()
            case Action.BROKER_STOP:
                self._own_broker().stop()
            case Action.BROKER_START:
                old = self._own_broker()
                self._broker = Broker.start(old.data_dir, port=old.port)

    def _own_broker(self) -> Broker:
        if self._broker is None:
            raise ValueError("this cluster's broker is shared: give it one of its own")
        return self._broker

    # -- what must hold ----------------------------------------------------------------------------------------

    def settle(self, timeout_s: float = SETTLE_S) -> dict[int, str]:
        """Wait until each partition is served by one node alone, up to the end of its log; return who that is.

        Every node that runs has to have its share, or the group has not settled yet.
        """
        for member in self.members.values():
            if member._ending:
                member.wait_ended()
        ends = self.judge.read()
        deadline = time.monotonic() + timeout_s
        while True:
            owners, behind = self._owners(), "an owner is missing, or there are two, or a node owns nothing"
            up = sum(member.running for member in self.members.values())
            idle = len({name for names in owners.values() for name in names}) < min(up, self.partitions)
            if not idle and all(len(names) == 1 for names in owners.values()):
                behind = self._behind({number: names[0] for number, names in owners.items()}, ends)
                if not behind:
                    return {number: names[0] for number, names in owners.items()}
            if time.monotonic() > deadline:
                raise FaultError(
                    f"not settled within {timeout_s:.0f} s: {behind}; owners {owners}, log's ends {ends}, nodes tell "
                    f"{ {name: member.states for name, member in self.members.items()} }; logs are in {self._path}"
                )
            time.sleep(_POLL_S)

    def _owners(self) -> dict[int, list[str]]:
        for member in self.members.values():
            member.look()
        up = [member for member in self.members.values() if member.running]
        return {number: [member.name for member in up if number in member.served] for number in range(self.partitions)}

    def _behind(self, owners: Mapping[int, str], ends: Mapping[int, int]) -> str:
        for number, name in owners.items():
            with self._follower(self.members[name], number) as store:
                if store.applied_offset < ends[number] - 1:
                    return f"partition {number} at {name} has applied {store.applied_offset}"
        return ""

    def check(self) -> dict[int, str]:
        """Settle, and raise FaultError unless all that must hold does; return who owns what."""
        owners = self.settle()
        ends = self.judge.read()
        for name in self.members:
            for number, applied in self.stored(name).items():
                if owners[number] == name and applied != ends[number] - 1:
                    raise FaultError(f"{name} owns partition {number} and stands at {applied}, not its end")
        self._check_dead_letters()
        return owners

    def stored(self, name: str) -> dict[int, int]:
        """Compare every store of one node with the judge where it stands, and return the applied offsets.

        Raises FaultError when one is wrong.
        """
        member = self.members[name]
        found: dict[int, int] = {}
        for number in partitions_in(member.settings.node.data_dir):
            if not (partition_dir(member.settings.node.data_dir, number) / "CURRENT").exists():
                # It was being made when the node died.
                continue
            with (self._follower if member.running else self._copy)(member, number) as store:
                state, counted = store.state, Verdict(*recount(store))
            right = self.judge.at(number, state.applied_offset)
            if not Verdict(state.events, state.fingerprint) == counted == right:
                raise FaultError(
                    f"partition {number} of {name} at offset {state.applied_offset}: it keeps "
                    f"{as_text(state.fingerprint)} of {state.events}, its events add up to "
                    f"{as_text(counted.fingerprint)} of {counted.events}, and {as_text(right.fingerprint)} of "
                    f"{right.events} is right; see {self._path}"
                )
            found[number] = state.applied_offset
        return found

    @contextmanager
    def _follower(self, member: Member, number: int) -> Iterator[ReadablePartition]:
        """Read a partition beside its node."""
        path = partition_dir(member.settings.node.data_dir, number)
        store = SecondaryPartition.open(path, partition=number, memory=self._memory)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def _copy(self, member: Member, number: int) -> Iterator[ReadablePartition]:
        """Open a copy of a dead node's partition as the node would: the node still has to do it by itself."""
        with tempfile.TemporaryDirectory(prefix="lifeline-chaos-") as aside:
            path = Path(shutil.copytree(partition_dir(member.settings.node.data_dir, number), Path(aside) / "copy"))
            store = PartitionStore.open(path, partition=number, settings=member.settings.store, memory=self._memory)
            try:
                yield store
            finally:
                store.close()

    def _check_dead_letters(self) -> None:
        """Raise FaultError unless every bad record has come to the dead letters, with its reason."""
        found = read_dead_letters(self.settings)
        for partition in self.judge.partitions:
            for offset, reason in partition.dead.items():
                if found.get((partition.partition, offset)) != reason:
                    raise FaultError(
                        f"offset {offset} of partition {partition.partition} is {reason}, and the dead letters say "
                        f"{found.get((partition.partition, offset))}"
                    )
        if spare := found.keys() - {
            (partition.partition, offset) for partition in self.judge.partitions for offset in partition.dead
        }:
            raise FaultError(f"these are dead letters and need not be: {sorted(spare)[:5]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members.values():
            member.kill()
        if self._broker is not None:
            self._broker.kill()


def read_dead_letters(settings: Settings) -> dict[tuple[int, int], str]:
    """Return the reason of every dead letter by partition and offset of its record."""
    tps = [TopicPartition(settings.kafka.dead_letter_topic, number) for number in range(settings.kafka.partitions)]
    consumer = reader(settings.kafka.servers)
    found: dict[tuple[int, int], str] = {}
    try:
        consumer.assign(tps)
        ends = consumer.end_offsets(tps)
        deadline = time.monotonic() + _END_S
        while any(consumer.position(tp) < ends[tp] for tp in tps):
            if time.monotonic() > deadline:
                raise FaultError(f"the dead letters are not to be had up to {ends}")
            for tp, records in consumer.poll(timeout_ms=500).items():
                for record in records:
                    headers = dict(record.headers)
                    at = tp.partition, int(headers["__connect.errors.offset"])
                    found[at] = headers["lifeline.reason"].decode()
    finally:
        consumer.close()
    return found
