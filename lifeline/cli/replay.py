"""`lifeline replay`, and the command that it runs in a process for each partition."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.options import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    config_flags,
    load_config,
)
from lifeline.cli.output import Output, Part, Table
from lifeline.cli.verify import EXIT_DIFFERENT

if TYPE_CHECKING:
    from lifeline.ops.replay import PartitionPlan
    from lifeline.ops.verify import VerifyReport

_PRINT_INTERVAL_S = 0.2


def replay(
    into: Annotated[
        Path,
        typer.Option(
            help="the directory to build; it may hold an earlier replay, or restored snapshots, to resume from"
        ),
    ],
    to_offset: Annotated[
        int | None, typer.Option(min=0, help="stop after this offset of each partition", show_default=False)
    ] = None,
    to_datetime: Annotated[
        datetime | None, typer.Option(help="apply the records logged before this time (UTC)", show_default=False)
    ] = None,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="apply the whole log (the default)")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="replay to the node's applied offsets, and compare with its state")
    ] = False,
    swap: Annotated[bool, typer.Option("--swap", help="then replace the partitions of a stopped node")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and change nothing")] = False,
    force: Annotated[bool, typer.Option("--force", help="discard an existing replay in the directory")] = False,
    processes: Annotated[int, typer.Option(min=1, help="partitions to replay in parallel")] = os.cpu_count() or 1,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the state from the log into a new directory.

    After a crash, run the same command again to resume. --verify compares the stored events with those in the node's
    directory at the same offsets; the node may be running. --swap replaces the partitions of a stopped node; the old
    ones stay beside them as partition-N.replaced-TIME, and the node applies later records when it starts. Exit code 3
    if anything differs.
    """
    from lifeline.ops.offline import open_partitions
    from lifeline.ops.replay import plan_replay, run_replay
    from lifeline.ops.swap import swap as swap_in
    from lifeline.ops.topic_note import with_partitions_of
    from lifeline.ops.verify import compare_with_replay
    from lifeline.store.data_lock import SWAP_JOURNAL, data_dir_lock

    if sum((to_offset is not None, to_datetime is not None, to_latest, verify)) > 1:
        raise typer.BadParameter("give one of --to-offset, --to-datetime, --to-latest and --verify")
    output = Output(as_json=as_json)
    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    if swap and (settings.node.data_dir / SWAP_JOURNAL).exists():
        # Some partitions are already moved out of `into`: finish the swap without a replay.
        if dry_run:
            output.show(text=lambda: [_plan_table("What a replay would do", ())], document=list)
            output.note(
                f"a swap in {settings.node.data_dir} was interrupted: without --dry-run this command finishes it"
            )
            return
        replaced = swap_in(settings.node.data_dir, into, ())
        output.show(
            text=lambda: _swapped_text(replaced), document=lambda: {"replaced": [str(path) for path in replaced]}
        )
        return
    if swap and not dry_run:
        with data_dir_lock(settings.node.data_dir):
            # Fails now, not after the replay, if the node is running.
            pass
    timestamp_ms = None if to_datetime is None else int(to_datetime.replace(tzinfo=UTC).timestamp() * 1_000)
    flags = config_flags(config, bootstrap_servers)
    with ExitStack() as stack:
        if verify:
            settings = with_partitions_of(settings, settings.node.data_dir)
        live = stack.enter_context(open_partitions(settings)) if verify else []
        plans = plan_replay(
            settings,
            into,
            to_offset=to_offset,
            to_timestamp_ms=timestamp_ms,
            to_state={store.partition: store.applied_offset for store in live} if verify else None,
            force=force,
        )
        if dry_run:
            output.show(
                text=lambda: [_plan_table("What a replay would do", plans)],
                document=lambda: [_plan_json(plan) for plan in plans],
            )
            return
        started = time.monotonic()
        with output.progress() as bar:
            task = bar.add_task("replaying", total=sum(plan.records for plan in plans), note="")
            applied = dict.fromkeys((plan.partition for plan in plans), 0)
            starts = {plan.partition: plan.start for plan in plans}

            def show(partition: int, offset: int) -> None:
                applied[partition] = offset + 1 - starts[partition]
                total = sum(applied.values())
                bar.update(task, completed=total, note=f"{total / (time.monotonic() - started):,.0f}/s")

            run_replay(settings, into, plans, processes=processes, flags=flags, progress=show, force=force)
        seconds = time.monotonic() - started
        report = compare_with_replay(settings, live, into) if verify else None
    replaced = swap_in(settings.node.data_dir, into, [each.partition for each in plans]) if swap else []
    output.show(
        text=lambda: _result_text(plans, seconds, report, replaced),
        document=lambda: {
            "partitions": [_plan_json(plan) for plan in plans],
            "seconds": seconds,
            "replaced": [str(path) for path in replaced],
            **(report.as_json() if report else {}),
        },
    )
    if report is not None and not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def replay_partition(
    into: Path,
    partition: int,
    until: int,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
) -> None:
    """Replay one partition: the process that `lifeline replay` starts.

    It prints the applied offset as it moves, as lines of JSON.
    """
    from lifeline.ops.replay import replay_partition as replay_in_this_process

    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings
    printed_at = 0.0

    def print_offset(offset: int) -> None:
        nonlocal printed_at
        now = time.monotonic()
        if now - printed_at >= _PRINT_INTERVAL_S or offset >= until:
            printed_at = now
            sys.stdout.write(json.dumps({"offset": offset}) + "\n")
            sys.stdout.flush()

    replay_in_this_process(settings, into, partition, until, print_offset)


def _plan_json(plan: "PartitionPlan") -> dict[str, object]:
    return plan._asdict() | {"records": plan.records}


def _plan_table(title: str, plans: "Sequence[PartitionPlan]") -> Table:
    rows = [(plan.partition, plan.start, plan.until, f"{plan.records:,}") for plan in plans]
    return Table(title, ("partition>", "from offset>", "to offset>", "records>"), rows)


def _result_text(
    plans: "Sequence[PartitionPlan]", seconds: float, report: "VerifyReport | None", replaced: Sequence[Path]
) -> Iterator[Part]:
    yield _plan_table("Replayed", plans)
    yield f"{sum(plan.records for plan in plans):,} records in {seconds:.1f} s"
    if report is not None:
        yield report.summary()
    if replaced:
        yield from _swapped_text(replaced)


def _swapped_text(replaced: Sequence[Path]) -> Iterator[Part]:
    yield "The partitions are replaced. Remove the old directories when you no longer need them:"
    for path in replaced:
        yield f"  {path}"
