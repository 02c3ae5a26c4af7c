"""The command that rebuilds the state from the log: `lifeline replay`, and the process of one partition."""

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.console import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    flags_of,
    load,
    out,
    print_json,
    progress,
    table,
)

if TYPE_CHECKING:
    from lifeline.ops.replay import PartitionPlan
    from lifeline.ops.verify import VerifyReport

_TELL_S = 0.2


def replay(
    into: Annotated[Path, typer.Option(help="the directory to build; it may hold an earlier replay to go on with")],
    to_offset: Annotated[
        int | None, typer.Option(min=0, help="apply up to this offset of each partition", show_default=False)
    ] = None,
    to_datetime: Annotated[
        datetime | None, typer.Option(help="apply what the log got before this time, UTC", show_default=False)
    ] = None,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="apply all there is now (the default)")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="replay to where the node's state stands, and compare with that")
    ] = False,
    swap: Annotated[
        bool, typer.Option("--swap", help="put it in the place of the partitions of a node that is stopped")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and change nothing")] = False,
    force: Annotated[bool, typer.Option("--force", help="start over in a directory that holds a replay")] = False,
    processes: Annotated[int, typer.Option(min=1, help="partitions at once")] = os.cpu_count() or 1,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the state from the topic, into a directory of its own; after a crash the same command goes on.

    With --verify it is compared with the state in the node's directory at the same offsets, from the stored events; the
    node may be running. With --swap the partitions then take the place of the node's, which stay beside them as
    partition-N.replaced-TIME; where the replay ended earlier than they did, the node goes on from there. Exit code 3
    when anything differs.
    """
    from lifeline.ops.replay import plan, run
    from lifeline.ops.stored import opened
    from lifeline.ops.swap import swap as swap_in
    from lifeline.ops.verify import compare_with
    from lifeline.store.data_lock import SWAP_JOURNAL, locked

    if sum((to_offset is not None, to_datetime is not None, to_latest, verify)) > 1:
        raise typer.BadParameter("give one of --to-offset, --to-datetime, --to-latest and --verify")
    settings = load(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    if swap:
        if (settings.node.data_dir / SWAP_JOURNAL).exists():
            # Partitions have gone from `into` already: to replay them again is not what was begun.
            _print_swapped(swap_in(settings.node.data_dir, into, ()), as_json=as_json)
            return
        with locked(settings.node.data_dir):
            # A node that runs is better known of now than after the replay.
            pass
    timestamp_ms = None if to_datetime is None else int(to_datetime.replace(tzinfo=UTC).timestamp() * 1_000)
    flags = flags_of(config, bootstrap_servers)
    with ExitStack() as stack:
        live = stack.enter_context(opened(settings)) if verify else []
        plans = plan(
            settings,
            into,
            to_offset=to_offset,
            to_timestamp_ms=timestamp_ms,
            to_state={one.partition: one.applied_offset for one in live} if verify else None,
            force=force,
        )
        if dry_run:
            _print_plan(plans, as_json=as_json)
            return
        started = time.monotonic()
        with progress() as bar:
            total = sum(one.records for one in plans)
            task = bar.add_task("replaying", total=total, note="")
            done = dict.fromkeys((one.partition for one in plans), 0)
            starts = {one.partition: one.start for one in plans}

            def show(partition: int, offset: int) -> None:
                done[partition] = offset + 1 - starts[partition]
                so_far = sum(done.values())
                bar.update(task, completed=so_far, note=f"{so_far / (time.monotonic() - started):,.0f}/s")

            run(settings, into, plans, processes=processes, flags=flags, progress=show, force=force)
        seconds = time.monotonic() - started
        report = compare_with(settings, live, into) if verify else None
    replaced = swap_in(settings.node.data_dir, into, [one.partition for one in plans]) if swap else []
    _print_done(plans, seconds, report, replaced, as_json=as_json)
    if report is not None and not report.equal:
        raise typer.Exit(3)


def replay_partition(
    into: Path,
    partition: int,
    until: int,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
) -> None:
    """Replay one partition, and print the applied offset as it moves: `lifeline replay` starts one for each."""
    from lifeline.ops.replay import run_partition

    settings = load(config, kafka__bootstrap_servers=bootstrap_servers).settings
    told = 0.0

    def tell(offset: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _TELL_S or offset >= until:
            told = now
            sys.stdout.write(json.dumps({"offset": offset}) + "\n")
            sys.stdout.flush()

    run_partition(settings, into, partition, until, tell)


def _print_plan(plans: "Sequence[PartitionPlan]", *, as_json: bool) -> None:
    if as_json:
        print_json([one._asdict() | {"records": one.records} for one in plans])
        return
    rows = [(one.partition, one.start, one.until, f"{one.records:,}") for one in plans]
    out.print(table("What a replay would do", ("partition>", "from offset>", "to offset>", "records>"), rows))


def _print_done(
    plans: "Sequence[PartitionPlan]",
    seconds: float,
    report: "VerifyReport | None",
    replaced: Sequence[Path],
    *,
    as_json: bool,
) -> None:
    records = sum(one.records for one in plans)
    if as_json:
        print_json(
            {
                "partitions": [one._asdict() | {"records": one.records} for one in plans],
                "seconds": seconds,
                "replaced": list(map(str, replaced)),
                **(report.as_json() if report else {}),
            }
        )
        return
    rows = [(one.partition, one.start, one.until, f"{one.records:,}") for one in plans]
    out.print(table("Replayed", ("partition>", "from offset>", "to offset>", "records>"), rows))
    out.print(f"{records:,} records in {seconds:.1f} s", highlight=False)
    if report is not None:
        out.print(report.summary(), highlight=False)
    if replaced:
        _print_swapped(replaced, as_json=False)


def _print_swapped(replaced: Sequence[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"replaced": list(map(str, replaced))})
        return
    out.print("In place. What was there before, to be removed once you are content:", highlight=False)
    for path in replaced:
        out.print(f"  {path}", highlight=False, soft_wrap=True)
