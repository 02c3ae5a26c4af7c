"""Proofs of the state: against the log it came from, or against a file of actions."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Group
from rich.progress import Progress

from lifeline.cli.console import table
from lifeline.client import LifelineClient
from lifeline.config import Settings
from lifeline.paths import partition_dir, partitions_in
from lifeline.sources import Source
from store.actions import Identity, Kind
from store.errors import StoreError
from store.fingerprint import as_text
from store.memory import SharedMemory
from store.partition import PartitionStore
from store.reader import SequenceReader
from store.sequence import SequenceQuery
from stream.decode import Rules
from stream.replay import replay

_NAMED = 20


class Comparison(NamedTuple):
    """One thing that was compared: a partition with its log, or the whole with a file."""

    name: str
    """Partition, or file."""
    as_of: int
    """Applied offset of the state; -1 where it is not one partition's."""
    events: int
    """Events in the state."""
    found: str
    """Fingerprint, or users, of the state."""
    wanted: str
    """The same of what it must equal."""
    different_users: tuple[str, ...]
    """Users whose sequences differ."""


@dataclass(slots=True)
class VerifyReport:
    """What verify found."""

    against: str
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether everything that was compared is the same."""
        return all(one.found == one.wanted and not one.different_users for one in self.comparisons)

    def table(self) -> Group:
        """Return what people read."""
        rows = [
            (
                one.name,
                one.as_of if one.as_of >= 0 else "-",
                f"{one.events:,}",
                one.found,
                one.wanted,
                "equal" if one.found == one.wanted and not one.different_users else "DIFFERENT",
            )
            for one in self.comparisons
        ]
        return table(f"The state against {self.against}", ("", "offset>", "events>", "found", "wanted", "result"), rows)

    def summary(self) -> str:
        """Return the result in a sentence."""
        if self.equal:
            return f"equal: the state is what {self.against} gives"
        users = [user for one in self.comparisons for user in one.different_users]
        named = ", ".join(users[:_NAMED]) + (f" and {len(users) - _NAMED} more" if len(users) > _NAMED else "")
        return f"DIFFERENT: {named or 'see the fingerprints'}. Stop the node, set its data aside and start it again"

    def as_json(self) -> dict[str, object]:
        """Return everything, for programs."""
        return {
            "against": self.against,
            "equal": self.equal,
            "comparisons": [one._asdict() for one in self.comparisons],
        }


def verify_log(settings: Settings, progress: Progress) -> VerifyReport:
    """Rebuild each partition aside, up to its applied offset, and compare; a running node may hold the state.

    Raises StoreError when there is no state, and what `replay` raises.
    """
    report = VerifyReport(f"topic {settings.kafka.actions_topic}")
    found = partitions_in(settings.node.data_dir)
    if not found:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    rules = Rules(
        vocabulary=settings.vocabulary,
        partitions=settings.kafka.partitions,
        max_action_bytes=settings.updater.max_action_bytes,
        max_future_ms=settings.updater.max_future_ms,
    )
    memory = SharedMemory(settings.store)
    for number in found:
        live = PartitionStore.open(
            partition_dir(settings.node.data_dir, number),
            partition=number,
            settings=settings.store,
            memory=memory,
            read_only=True,
        )
        aside = Path(tempfile.mkdtemp(prefix="lifeline-verify-"))
        try:
            rebuilt = PartitionStore.open(aside, partition=number, settings=settings.store, memory=memory)
            try:
                until = live.applied_offset
                task = progress.add_task(f"replaying partition {number}", total=until + 1, note="")
                asyncio.run(
                    replay(
                        settings.kafka,
                        rules,
                        rebuilt,
                        until=until,
                        progress=lambda offset, task=task: progress.update(task, completed=offset + 1),  # type: ignore[misc]
                    )
                )
                report.comparisons.append(_compare(live, rebuilt))
            finally:
                rebuilt.close()
        finally:
            live.close()
            shutil.rmtree(aside, ignore_errors=True)
    return report


def _compare(live: PartitionStore, rebuilt: PartitionStore) -> Comparison:
    different: list[str] = []
    if live.fingerprint != rebuilt.fingerprint:
        query = SequenceQuery(kinds=tuple(Kind))
        readers = SequenceReader(live), SequenceReader(rebuilt)
        for user in sorted({*live.users(), *rebuilt.users()}):
            found, wanted = (reader.read(user, query).sequences for reader in readers)
            if any(found[kind].identities() != wanted[kind].identities() for kind in Kind):
                different.append(user)
    state = live.state
    return Comparison(
        f"partition {live.partition}",
        state.applied_offset,
        state.events,
        as_text(state.fingerprint),
        as_text(rebuilt.fingerprint),
        tuple(different),
    )


def verify_file(settings: Settings, source: Source, progress: Progress) -> VerifyReport:
    """Compare what a node answers with the newest N of each user's rows, sorted in plain Python.

    Raises SourceError, LifelineError.
    """
    wanted: dict[tuple[str, Kind], set[Identity]] = defaultdict(set)
    kind_of = settings.vocabulary.kind_of_type
    reading = progress.add_task(f"reading {source.name}", total=source.total, note="")
    for action in source:
        kind = Kind(int(kind_of[action.action_type]))
        code = action.action_type << 8 | action.surface
        wanted[action.user_id, kind].add(Identity(action.timestamp_ms, action.item_id, code))
        progress.advance(reading)
    asking = progress.add_task("asking the node", total=len(wanted), note="")
    different, events, right = [], 0, 0
    with LifelineClient(settings.node.grpc_address, timeout_s=30) as client:
        for (user, kind), identities in wanted.items():
            answer = client.get_sequence(user, SequenceQuery(kinds=(kind,))).sequences[kind]
            found = answer.identities()
            events += len(found)
            if found == sorted(identities)[-settings.store.cap(kind) :]:
                right += 1
            else:
                different.append(user)
            progress.advance(asking)
    return VerifyReport(
        source.name,
        [
            Comparison(
                source.name, -1, events, f"{right:,} sequences", f"{len(wanted):,} sequences", tuple(sorted(different))
            )
        ],
    )
