"""Proofs of the state: against the log it came from, or against a file of actions."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress, TaskID

from lifeline.config import Settings
from lifeline.core.actions import Identity, Kind
from lifeline.core.paths import partition_dir
from lifeline.core.sequence import SequenceQuery
from lifeline.core.topics import check_log_time
from lifeline.ops.node_client import node_client
from lifeline.ops.stored import opened
from lifeline.sources.files import Source
from lifeline.store.fingerprint import as_text
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader
from lifeline.store.recount import recount
from lifeline.stream.decode import Rules
from lifeline.stream.replay import replay

_NAMED = 20
_BOTH = SequenceQuery(kinds=tuple(Kind))


class Comparison(NamedTuple):
    """One thing that was compared: a partition with its log, or a node's answers with a file."""

    name: str
    """The partition, or the file."""
    as_of: int
    """Applied offset of the state; -1 where it is not one partition's."""
    events: int
    """Events that are stored."""
    found: str
    """What the stored events add up to: a fingerprint, or how many users are right."""
    wanted: str
    """The same of what it must equal."""
    equal: bool
    """Whether everything that was compared is the same."""
    different_users: tuple[str, ...]
    """Users whose sequences differ."""
    note: str = ""
    """What else is wrong."""


@dataclass(slots=True)
class VerifyReport:
    """What verify found."""

    against: str
    advice: str
    """What to do when it differs."""
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether everything that was compared is the same."""
        return all(one.equal for one in self.comparisons)

    def summary(self) -> str:
        """Return the result in a sentence."""
        if self.equal:
            return f"equal: the state is what {self.against} gives"
        users = [user for one in self.comparisons for user in one.different_users]
        named = ", ".join(users[:_NAMED]) + (f" and {len(users) - _NAMED} more" if len(users) > _NAMED else "")
        notes = "; ".join(one.note for one in self.comparisons if one.note)
        found = "; ".join(part for part in (f"users {named}" if users else "", notes) if part)
        return f"DIFFERENT: {found}. {self.advice}"

    def as_json(self) -> dict[str, object]:
        """Return everything, for programs."""
        return {
            "against": self.against,
            "equal": self.equal,
            "comparisons": [one._asdict() for one in self.comparisons],
        }


def verify_log(settings: Settings, progress: Progress) -> VerifyReport:
    """Rebuild each partition aside, up to its applied offset, and compare; a running node may hold the state.

    The stored events are read and added up anew, so that what is compared is what readers get. Raises StoreError
    when there is no state, and what `replay` raises.
    """
    report = VerifyReport(
        f"topic {settings.kafka.actions_topic}",
        "Stop the node, set its data directory aside, and start it again: it rebuilds the state from the topic",
    )
    rules = Rules.of(settings.vocabulary, settings.kafka.partitions, settings.updater)
    if settings.store.has_ages:
        check_log_time(settings.kafka)
    with opened(settings) as stores:
        for live in stores:
            until = live.applied_offset
            task = progress.add_task(f"replaying partition {live.partition}", total=until + 1, note="")

            def show(offset: int, task: TaskID = task) -> None:
                progress.update(task, completed=offset + 1)

            with _fresh_store(settings, live.partition) as rebuilt:
                asyncio.run(replay(settings.kafka, rules, rebuilt, until=until, progress=show))
                report.comparisons.append(_compare(live, rebuilt))
    return report


def compare_with(settings: Settings, live: Sequence[ReadablePartition], into: Path) -> VerifyReport:
    """Compare open partitions with those of the same number that were replayed into `into`. Raises StoreError."""
    report = VerifyReport(
        f"topic {settings.kafka.actions_topic}",
        f"What {into} holds is what the topic gives: stop the node, and put it in the place of the node's directory",
    )
    memory = SharedMemory(settings.store)
    for one in live:
        path = partition_dir(into, one.partition)
        rebuilt = PartitionStore.open(path, partition=one.partition, settings=settings.store, memory=memory)
        try:
            report.comparisons.append(_compare(one, rebuilt))
        finally:
            rebuilt.close()
    return report


@contextmanager
def _fresh_store(settings: Settings, partition: int) -> Iterator[PartitionStore]:
    aside = Path(tempfile.mkdtemp(prefix="lifeline-verify-"))
    try:
        store = PartitionStore.open(
            aside, partition=partition, settings=settings.store, memory=SharedMemory(settings.store)
        )
        try:
            yield store
        finally:
            store.close()
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _compare(live: ReadablePartition, rebuilt: ReadablePartition) -> Comparison:
    kept, stored, wanted = live.state, recount(live), recount(rebuilt)
    different: list[str] = []
    if stored != wanted:
        readers = SequenceReader(live), SequenceReader(rebuilt)
        for user in sorted({*live.users(), *rebuilt.users()}):
            ours, theirs = (reader.read(user, _BOTH).sequences for reader in readers)
            if any(ours[kind].identities() != theirs[kind].identities() for kind in Kind):
                different.append(user)
    is_kept = (kept.events, kept.fingerprint) == stored
    return Comparison(
        f"partition {live.partition}",
        kept.applied_offset,
        stored.events,
        as_text(stored.fingerprint),
        as_text(wanted.fingerprint),
        stored == wanted and is_kept,
        tuple(different),
        "" if is_kept else f"partition {live.partition} keeps fingerprint {as_text(kept.fingerprint)} of other events",
    )


def verify_file(settings: Settings, source: Source, progress: Progress) -> VerifyReport:
    """Compare what a node answers with the newest N of each user's rows, sorted in plain Python.

    Both kinds of every user of the file are compared; users that the file lacks are not looked for. Raises
    SourceError, LifelineError.
    """
    wanted: dict[str, dict[Kind, set[Identity]]] = defaultdict(lambda: {kind: set() for kind in Kind})
    kind_of = settings.vocabulary.kind_of_type
    reading = progress.add_task(f"reading {source.name}", total=source.total, note="")
    for action in source:
        identity = Identity(action.timestamp_ms, action.item_id, action.action_type << 8 | action.surface)
        wanted[action.user_id][Kind(int(kind_of[action.action_type]))].add(identity)
        progress.advance(reading)
    asking = progress.add_task("asking the node", total=len(wanted), note="")
    different, events = [], 0
    with node_client(settings, timeout_s=30) as client:
        for user, of_kind in wanted.items():
            answer = client.get_sequence(user, _BOTH).sequences
            events += sum(sequence.length for sequence in answer.values())
            right = {kind: sorted(identities)[-settings.store.cap(kind) :] for kind, identities in of_kind.items()}
            if {kind: sequence.identities() for kind, sequence in answer.items()} != right:
                different.append(user)
            progress.advance(asking)
    found = f"{len(wanted) - len(different):,} users right"
    comparison = Comparison(
        source.name, -1, events, found, f"{len(wanted):,} users", not different, tuple(sorted(different))
    )
    advice = (
        "They may have been erased, or have actions that are not in the file: `lifeline verify` without a file says "
        "whether the state is what the topic gives"
    )
    return VerifyReport(source.name, advice, [comparison])
