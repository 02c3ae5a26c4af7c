"""Verification of the state, against its log or against a file of actions."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.progress import Progress

from lifeline.config import Settings
from lifeline.core.actions import Identity, Kind
from lifeline.core.paths import partition_dir
from lifeline.core.scratch import temporary_root
from lifeline.core.sequence import SequenceQuery
from lifeline.ops.node_client import node_client
from lifeline.ops.offline import open_partitions
from lifeline.ops.replay import plan_replay, run_replay
from lifeline.ops.topic_note import with_partitions_of
from lifeline.sources.files import Source
from lifeline.store.fingerprint import as_text
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader
from lifeline.store.recount import recount

_LISTED = 20
_BOTH = SequenceQuery(kinds=tuple(Kind))


class Comparison(NamedTuple):
    """One comparison: of a partition with its log, or of a node's answers with a file."""

    name: str
    """The partition, or the file."""
    as_of: int
    """Applied offset of the state; -1 in a comparison with a file."""
    events: int
    """Events that are stored."""
    found: str
    """The fingerprint of the stored events, or the number of users with equal sequences."""
    wanted: str
    """The expected value of `found`."""
    equal: bool
    """Whether the two are the same."""
    different_users: tuple[str, ...]
    """Users whose sequences differ."""
    note: str = ""
    """Another difference."""


@dataclass(slots=True)
class VerifyReport:
    """The result of a verification."""

    against: str
    advice: str
    """What to do when it differs."""
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether every comparison is equal."""
        return all(comparison.equal for comparison in self.comparisons)

    def summary(self) -> str:
        """Return the result in a sentence."""
        if self.equal:
            return f"equal: the state agrees with {self.against}"
        users = [user for comparison in self.comparisons for user in comparison.different_users]
        listed = ", ".join(users[:_LISTED]) + (f" and {len(users) - _LISTED} more" if len(users) > _LISTED else "")
        notes = "; ".join(comparison.note for comparison in self.comparisons if comparison.note)
        differences = "; ".join(part for part in (f"users {listed}" if users else "", notes) if part)
        return f"DIFFERENT: {differences}. {self.advice}"

    def as_json(self) -> dict[str, object]:
        """Return everything, for programs."""
        return {
            "against": self.against,
            "equal": self.equal,
            "comparisons": [comparison._asdict() for comparison in self.comparisons],
        }


def verify_log(settings: Settings, flags: Sequence[str], progress: Progress) -> VerifyReport:
    """Replay each partition into a temporary directory, up to its applied offset, and compare. The node may be running.

    `flags` pass the settings on to the replaying processes. Raises StoreError if there is no state, and what
    `plan_replay` and `run_replay` raise.
    """
    settings = with_partitions_of(settings, settings.node.data_dir)
    with (
        open_partitions(settings) as live,
        TemporaryDirectory(prefix="lifeline-verify-", dir=temporary_root()) as directory,
    ):
        into = Path(directory)
        plans = plan_replay(settings, into, to_state={store.partition: store.applied_offset for store in live})
        tasks = {
            plan.partition: progress.add_task(f"replaying partition {plan.partition}", total=plan.until + 1, note="")
            for plan in plans
        }

        def show(partition: int, offset: int) -> None:
            progress.update(tasks[partition], completed=offset + 1)

        run_replay(settings, into, plans, processes=os.cpu_count() or 1, flags=flags, progress=show)
        return _compare_partitions(
            settings,
            live,
            into,
            "Stop the node, set its data directory aside, and start it again: it rebuilds the state from the topic",
        )


def compare_with_replay(settings: Settings, live: Sequence[ReadablePartition], into: Path) -> VerifyReport:
    """Compare open partitions with those of the same number that were replayed into `into`. Raises StoreError.

    The stored events of both are read and counted again, so the comparison covers what readers get.
    """
    return _compare_partitions(
        settings,
        live,
        into,
        f"{into} agrees with the topic: stop the node, and replace its directory with this one",
    )


def _compare_partitions(settings: Settings, live: Sequence[ReadablePartition], into: Path, advice: str) -> VerifyReport:
    report = VerifyReport(f"topic {settings.kafka.actions_topic}", advice)
    memory = SharedMemory(settings.store)
    for store in live:
        path = partition_dir(into, store.partition)
        # Open it for writing: the replay of a partition without records has created no directory.
        rebuilt = PartitionStore.open(path, partition=store.partition, settings=settings.store, memory=memory)
        try:
            report.comparisons.append(_compare(store, rebuilt))
        finally:
            rebuilt.close()
    return report


def _compare(live: ReadablePartition, rebuilt: ReadablePartition) -> Comparison:
    kept, stored, wanted = live.state, recount(live), recount(rebuilt)
    different: list[str] = []
    if stored != wanted:
        readers = SequenceReader(live), SequenceReader(rebuilt)
        for user in sorted({*live.users(), *rebuilt.users()}):
            left, right = (reader.read(user, _BOTH).sequences for reader in readers)
            if any(left[kind].identities() != right[kind].identities() for kind in Kind):
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
        ""
        if is_kept
        else f"the state of partition {live.partition} has fingerprint {as_text(kept.fingerprint)}, of other events",
    )


def verify_file(settings: Settings, source: Source, progress: Progress) -> VerifyReport:
    """Compare a node's answers with the newest rows of each user in a file, sorted in plain Python.

    Both kinds of every user of the file are compared; other users of the node are not. Raises
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
    equal_users = f"{len(wanted) - len(different):,} users equal"
    comparison = Comparison(
        source.name, -1, events, equal_users, f"{len(wanted):,} users", not different, tuple(sorted(different))
    )
    advice = (
        "They may have been erased, or have actions that are not in the file: `lifeline verify` without a file tells "
        "whether the state agrees with the topic"
    )
    return VerifyReport(source.name, advice, [comparison])
