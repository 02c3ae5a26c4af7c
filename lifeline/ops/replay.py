"""Replay of a whole topic into a directory of its own: a plan, and a process a partition.

The directory is laid out like a node's, with `replay.json` beside the partitions, which names the topic. A partition
that stands half way, after a crash or an earlier and shorter replay, goes on from its applied offset: so the same
command is the way to resume. Each process opens one store and tells on its standard output, a line of JSON at a time,
which offset it has applied.
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

from lifeline.config import Settings
from lifeline.core.errors import DataDirError, ReplayError
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.core.topics import actions_topic_id, check_log_time
from lifeline.core.watchdog import Watchdog
from lifeline.ops.topic_note import TOPIC_NOTE, TopicIdentity
from lifeline.store.data_lock import locked
from lifeline.store.gc_tuning import keep_collector_away
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.stream.decode import Rules
from lifeline.stream.replay import LogRange, log_ranges, replay

NOTE = "replay.json"
_OTHERS = frozenset({NOTE, TOPIC_NOTE, "node.lock"})
_SHOWN = 2_000

Progress = Callable[[int, int], None]
"""CallSinks of a partition and the offset that it has applied."""


class PartitionPlan(NamedTuple):
    """What is to be done for one partition."""

    partition: int
    start: int
    """The first offset to apply."""
    until: int
    """The last one; below `start` when there is nothing to do."""

    @property
    def records(self) -> int:
        """Offsets to pass over at most."""
        return max(0, self.until + 1 - self.start)


def plan(
    settings: Settings,
    into: Path,
    *,
    to_offset: int | None = None,
    to_timestamp_ms: int | None = None,
    to_state: Mapping[int, int] | None = None,
    force: bool = False,
) -> list[PartitionPlan]:
    """Return what a replay into `into` would do, by partition; nothing is changed.

    The end is that of the log, or an offset (included), a time, or with `to_state` the applied offset of each
    partition that it names, and no others. `force` plans as if the directory were empty. Raises ReplayError, and what
    `log_ranges` raises.
    """
    if into.resolve() == settings.node.data_dir.resolve():
        raise ReplayError(f"{into} is the node's own directory: name another one, and set it in its place afterwards")
    _check_ours(settings, into, force=force)
    if settings.store.has_ages:
        check_log_time(settings.kafka)
    ranges = asyncio.run(log_ranges(settings.kafka, to_offset=to_offset, to_timestamp_ms=to_timestamp_ms))
    if to_state is not None:
        ranges = {number: LogRange(ranges[number].first, until) for number, until in to_state.items()}
    plans = []
    for number, (first, until) in sorted(ranges.items()):
        applied = -1 if force else _applied(settings, into, number)
        if applied > until >= 0:
            raise ReplayError(
                f"partition {number} in {into} stands at offset {applied}, after {until}: name another directory, or "
                "start over with --force"
            )
        if first > applied + 1:
            raise ReplayError(
                f"the log of partition {number} starts at {first}, and {applied + 1} is needed: what retention took "
                "cannot be replayed; restore a snapshot there first"
            )
        plans.append(PartitionPlan(number, applied + 1, until))
    return plans


def run(
    settings: Settings,
    into: Path,
    plans: Sequence[PartitionPlan],
    *,
    processes: int,
    flags: Sequence[str],
    progress: Progress,
    force: bool = False,
) -> None:
    """Carry out a plan with so many processes at once; `flags` give a process the settings of this one.

    Returns once every partition is applied. Raises ReplayError with what a process said when it failed (the others
    are ended; the same call goes on from there), StoreLockedError while another replay is at work in `into`.
    """
    actions_topic = TopicIdentity(settings.kafka.actions_topic, actions_topic_id(settings.kafka))
    with locked(into):
        _check_ours(settings, into, force=force)
        if force:
            for number in partitions_in(into):
                shutil.rmtree(partition_dir(into, number))
            (into / TOPIC_NOTE).unlink(missing_ok=True)
        try:
            actions_topic.check(into)
        except DataDirError as error:
            raise ReplayError(f"{error}; or start over with --force") from error
        (into / NOTE).write_text(json.dumps({"topic": settings.kafka.actions_topic}) + "\n")
        stopping = threading.Event()
        with ThreadPoolExecutor(processes) as pool:
            work = [pool.submit(_in_process, into, one, flags, progress, stopping) for one in plans if one.records]
            try:
                for each in work:
                    each.result()
            except BaseException:
                stopping.set()
                for each in work:
                    each.cancel()
                raise


def run_partition(settings: Settings, into: Path, partition: int, until: int, progress: Callable[[int], None]) -> None:
    """Replay one partition in this process. Raises what `stream.replay.replay` and opening the store raise."""
    keep_collector_away()
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


def _in_process(
    into: Path, one: PartitionPlan, flags: Sequence[str], progress: Progress, stopping: threading.Event
) -> None:
    if stopping.is_set():
        return
    command = [sys.executable, "-m", "lifeline", "replay-partition", str(into), str(one.partition), str(one.until)]
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
        guard = Watchdog(process.pid)
        stack.callback(guard.release)
        stack.callback(process.kill)
        said: list[str] = []
        listening = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
        listening.start()
        for line in process.stdout or ():
            progress(one.partition, json.loads(line)["offset"])
            if stopping.is_set():
                return
        code = process.wait()
        listening.join()
    if code:
        raise ReplayError(
            f"the replay of partition {one.partition} ended with {code}; put this right and run the same command "
            f"again, it goes on from there:\n{''.join(said)[-_SHOWN:].strip()}"
        )


def _check_ours(settings: Settings, into: Path, *, force: bool) -> None:
    if not into.is_dir():
        return
    note = into / NOTE
    if not note.is_file():
        if any(entry.name not in _OTHERS for entry in into.iterdir()):
            raise ReplayError(f"{into} holds something that no replay made: name an empty directory, or a new one")
        return
    try:
        topic = json.loads(note.read_text())["topic"]
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{note} is not what a replay writes: remove {into} and begin anew") from error
    if topic != settings.kafka.actions_topic and not force:
        raise ReplayError(
            f"{into} holds a replay of topic {topic}, not of {settings.kafka.actions_topic}: name another directory, "
            "or start over with --force"
        )


def _applied(settings: Settings, into: Path, partition: int) -> int:
    path = partition_dir(into, partition)
    if not path.is_dir():
        return -1
    store = PartitionStore.open(path, partition=partition, settings=settings.store, memory=SharedMemory(settings.store))
    try:
        return store.applied_offset
    finally:
        store.close()
