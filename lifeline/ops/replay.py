"""Replay of a whole topic into a directory of its own: first a plan, then one process for each partition.

The directory is laid out like a node's, with `replay.json` beside the partitions, which names the topic. Where a
partition is incomplete, after a crash or an earlier and shorter replay, the replay resumes from its applied offset: to
resume, run the same command again. A partition that was restored from a snapshot is incomplete in the same way. Each
process opens one store, and prints the offsets that it has applied, a line of JSON at a time.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rocksdict import Rdict

from lifeline.config import Settings
from lifeline.core.errors import DataDirError, ReplayError
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.core.topics import actions_topic_partitions, check_log_time, topic_id
from lifeline.core.watchdog import Watchdog
from lifeline.ops.topic_note import TOPIC_NOTE, TopicIdentity, with_partitions_of
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.gc_tuning import tune_gc
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.retention import RetentionPolicy
from lifeline.store.rocksdb import FAMILIES
from lifeline.store.secondary_partition import SecondaryPartition
from lifeline.stream.decode import Rules
from lifeline.stream.replay import LogRange, log_ranges, replay

NOTE = "replay.json"
_FILES_BESIDE_PARTITIONS = frozenset({NOTE, TOPIC_NOTE, "node.lock"})
_MAX_ERROR_CHARS = 2_000

ProgressCallback = Callable[[int, int], None]
"""Called with a partition and the offset that is applied in it."""


class PartitionPlan(NamedTuple):
    """The offsets to apply in one partition."""

    partition: int
    start: int
    """The first offset to apply."""
    until: int
    """The last one; below `start` when there is nothing to do."""

    @property
    def records(self) -> int:
        """The number of these offsets, an upper bound of the records."""
        return max(0, self.until + 1 - self.start)


def plan_replay(
    settings: Settings,
    into: Path,
    *,
    to_offset: int | None = None,
    to_timestamp_ms: int | None = None,
    to_state: Mapping[int, int] | None = None,
    force: bool = False,
) -> list[PartitionPlan]:
    """Return what a replay into `into` would apply, by partition; it writes nothing.

    The replay ends at the end of the log, or at an offset (included), or before a time, or with `to_state` at the
    applied offset of each partition that it names, and replays no others. `force` plans for an empty directory. Raises
    ReplayError, and what `log_ranges` and opening a partition raise.
    """
    if into.resolve() == settings.node.data_dir.resolve():
        raise ReplayError(
            f"{into} is the node's own directory: name another one, and replace the node's partitions with --swap"
        )
    _check_replay_dir(settings, into, force=force)
    if settings.store.has_ages:
        check_log_time(settings.kafka)
    if to_state is None:
        _check_partitions(settings)
    ranges = asyncio.run(log_ranges(settings.kafka, to_offset=to_offset, to_timestamp_ms=to_timestamp_ms))
    if to_state is not None:
        if unknown := sorted(to_state.keys() - ranges.keys()):
            raise ReplayError(
                f"partition {unknown[0]} is on disk, but topic {settings.kafka.actions_topic} has only "
                f"{len(ranges)} partitions: correct kafka.partitions, kafka.actions_topic or --data-dir"
            )
        ranges = {number: LogRange(ranges[number].first, until) for number, until in to_state.items()}
    plans = []
    for number, (first, until) in sorted(ranges.items()):
        applied = -1 if force else _applied_offset(settings, into, number)
        if applied > until >= 0:
            is_replay = (into / NOTE).is_file()
            raise ReplayError(
                f"partition {number} in {into} is at offset {applied}, after {until}: name a later end, or another "
                f"directory{', or start over with --force' if is_replay else ''}"
            )
        if first > applied + 1:
            raise ReplayError(
                f"the log of partition {number} starts at {first}, and {applied + 1} is needed: restore a newer "
                "snapshot with `lifeline snapshot restore --data-dir DIR`, then run `lifeline replay --into DIR`"
            )
        plans.append(PartitionPlan(number, applied + 1, until))
    return plans


def run_replay(
    settings: Settings,
    into: Path,
    plans: Sequence[PartitionPlan],
    *,
    processes: int,
    flags: Sequence[str],
    progress: ProgressCallback,
    force: bool = False,
) -> None:
    """Run a plan with at most `processes` processes at once; `flags` pass the settings on to them.

    Returns once every partition is applied. Raises ReplayError with the output of a process that failed (the others
    are stopped; the same call resumes from there), and StoreLockedError while another replay writes into `into`.
    """
    kafka = settings.kafka
    actions_topic = TopicIdentity(kafka.actions_topic, topic_id(kafka, kafka.actions_topic), kafka.partitions)
    with data_dir_lock(into):
        _check_replay_dir(settings, into, force=force)
        if force:
            for number in partitions_in(into):
                shutil.rmtree(partition_dir(into, number))
            (into / TOPIC_NOTE).unlink(missing_ok=True)
        try:
            actions_topic.check(into)
        except DataDirError as error:
            raise ReplayError(f"{error}; or start over with --force") from error
        (into / NOTE).write_text(json.dumps({"topic": kafka.actions_topic}) + "\n")
        cancelled = threading.Event()
        with ThreadPoolExecutor(processes) as pool:
            futures = [
                pool.submit(_replay_in_process, into, plan, flags, progress, cancelled)
                for plan in plans
                if plan.records
            ]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                cancelled.set()
                for future in futures:
                    future.cancel()
                raise


def replay_partition(
    settings: Settings, into: Path, partition: int, until: int, progress: Callable[[int], None]
) -> None:
    """Replay one partition in this process. Raises what `stream.replay.replay` and opening the store raise."""
    tune_gc()
    settings = with_partitions_of(settings, into)
    rules = Rules.of(settings.vocabulary, settings.kafka.partitions, settings.updater)
    store = PartitionStore.open(
        partition_dir(into, partition),
        partition=partition,
        settings=settings.store,
        memory=SharedMemory(settings.store),
    )
    try:
        asyncio.run(replay(settings.kafka, rules, store, until=until, progress=progress))
    finally:
        store.close()


def _replay_in_process(
    into: Path, plan: PartitionPlan, flags: Sequence[str], progress: ProgressCallback, cancelled: threading.Event
) -> None:
    if cancelled.is_set():
        return
    command = [sys.executable, "-m", "lifeline", "replay-partition", str(into), str(plan.partition), str(plan.until)]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own command
                [*command, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        watchdog = Watchdog(process.pid)
        stack.callback(watchdog.release)
        stack.callback(process.kill)
        errors: list[str] = []
        error_reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        error_reader.start()
        for line in process.stdout or ():
            progress(plan.partition, json.loads(line)["offset"])
            if cancelled.is_set():
                return
        code = process.wait()
        error_reader.join()
    if code:
        raise ReplayError(
            f"the replay of partition {plan.partition} ended with exit code {code}; correct the error below, then run "
            f"the same command again, which resumes:\n{''.join(errors)[-_MAX_ERROR_CHARS:].strip()}"
        )


def _check_replay_dir(settings: Settings, into: Path, *, force: bool) -> None:
    """Raise ReplayError unless `into` is missing, empty, a replay of the configured topic, or restored partitions.

    A node's directory also has embeddings, so it does not pass for restored partitions once the node has run.
    """
    if not into.is_dir():
        return
    note = into / NOTE
    if not note.is_file():
        partitions = {partition_dir(into, number).name for number in partitions_in(into)}
        others = {entry.name for entry in into.iterdir()} - partitions - _FILES_BESIDE_PARTITIONS
        if others:
            raise ReplayError(
                f"{into} holds {min(others)}, which no replay made: name an empty or a new directory, or one that "
                "holds only restored partitions"
            )
        if partitions and force:
            raise ReplayError(
                f"{into} holds partitions that no replay made, and --force removes only a replay: replay without "
                "--force to start from them, or name an empty directory"
            )
        return
    try:
        topic = json.loads(note.read_text())["topic"]
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{note} is not a valid note of a replay: remove {into} and start over") from error
    if topic != settings.kafka.actions_topic and not force:
        raise ReplayError(
            f"{into} holds a replay of topic {topic}, not of {settings.kafka.actions_topic}: name another directory, "
            "or start over with --force"
        )


def _check_partitions(settings: Settings) -> None:
    """Raise ReplayError if the topic has another number of partitions: the state would lack users, or misplace them."""
    expected, found = settings.kafka.partitions, actions_topic_partitions(settings.kafka)
    if found not in {0, expected}:
        raise ReplayError(
            f"topic {settings.kafka.actions_topic} has {found} partitions, and kafka.partitions is {expected}: if it "
            f"has had {found} since its first record, set kafka.partitions to that; if partitions were added to it, "
            "the records of a user are in several, so no directory can hold them: copy them by key into a new topic. "
            "--verify replays what a node has applied"
        )


def _applied_offset(settings: Settings, into: Path, partition: int) -> int:
    """Return the applied offset of a partition, -1 without a store; it writes nothing.

    It opens a secondary, because a store that is open for writing would continue a scrub. Raises StoreError,
    RetentionPolicyError.
    """
    path = partition_dir(into, partition)
    if not _has_store(path):
        return -1
    store = SecondaryPartition.open(path, partition=partition, memory=SharedMemory(settings.store))
    try:
        if store.policy is not None:
            store.policy.check(RetentionPolicy.of(settings.store))
        return store.applied_offset
    finally:
        store.close()


def _has_store(path: Path) -> bool:
    """Return whether `path` has a complete store; a process that was killed during its creation leaves a part."""
    return (path / "CURRENT").exists() and set(FAMILIES) <= set(Rdict.list_cf(str(path)))
