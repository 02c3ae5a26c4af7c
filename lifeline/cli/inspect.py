"""`lifeline inspect`: sizes and layout of a stored partition, user or chunk."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lifeline.cli.options import ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Part

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lifeline.config import Settings
    from lifeline.core.actions import Identity, Kind
    from lifeline.store.inspection.inspectable_partition import InspectablePartition
    from lifeline.store.inspection.sequences import ChunkDetail, UserInspection

PartitionOption = Annotated[int | None, typer.Option(help="only this partition", min=0, show_default=False)]

_FENCE = re.compile(r"(-?\d+)-(\d+)-(\d+)")


def inspect(
    partition: PartitionOption = None,
    user: Annotated[str | None, typer.Option(help="inspect this user", show_default=False)] = None,
    kind: Annotated[
        Literal["explicit", "impression"] | None,
        typer.Option(help="only this sequence of the user", show_default=False),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            help="inspect this chunk of the sequence, by number or fence; default --kind: explicit",
            metavar="N|FENCE",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="number of largest users to list", min=0)] = 10,
    show_all: Annotated[
        bool, typer.Option("--all", help="print every chunk of a user, or every event of a chunk")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show sizes and layout of stored partitions, users and chunks.

    It prints sizes, encodings, ratios, histograms, the largest users and broken records. Without --user it prints a
    summary of all partitions, or the details of one if --partition names it or there is only one. The node may be
    running. Exit code 1 if a record is broken; the output names it.
    """
    from lifeline.core.actions import Kind

    output = Output(as_json=as_json)
    if user is None and (kind is not None or chunk is not None):
        raise typer.BadParameter("these options need --user", param_hint="--kind, --chunk")
    chunk_key = None if chunk is None else _chunk_key(chunk)
    settings = load_config(config, node__data_dir=data_dir).settings
    numbers = partitions_of(settings, partition)
    if user is None:
        is_intact = _show_partitions(settings, numbers, top, output)
    else:
        kinds = (Kind[(kind or "explicit").upper()],) if kind or chunk else tuple(Kind)
        inspection = _inspect_user(settings, numbers, _user(user), kinds, chunk_key)
        _show_user(settings, inspection, output, show_all=show_all)
        is_intact = not inspection.damages
    if not is_intact:
        raise typer.Exit(1)


def partitions_of(settings: "Settings", partition: int | None) -> list[int]:
    """Return the partitions of the data directory, or `partition` alone; raises StoreError if there is none."""
    from lifeline.core.paths import partitions_in
    from lifeline.store.errors import StoreError

    numbers = partitions_in(settings.node.data_dir)
    if not numbers:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    if partition is None:
        return numbers
    if partition not in numbers:
        numbers_text = ", ".join(map(str, numbers))
        raise StoreError(f"{settings.node.data_dir} has no partition {partition}: it has {numbers_text}")
    return [partition]


def _show_partitions(settings: "Settings", numbers: list[int], top: int, output: Output) -> bool:
    """Inspect partitions and print them; returns whether every record is intact."""
    from lifeline.cli.inspection_json import plain
    from lifeline.cli.inspection_tables import partition_tables, summary_table
    from lifeline.store.errors import StoreError
    from lifeline.store.inspection.partition import inspect_partition

    inspections, unreadable = [], {}
    with output.progress() as bar:
        for number in numbers:
            task = bar.add_task(f"reading partition {number}", total=None, note="")
            try:
                with _opened(settings, number) as store:
                    bar.update(task, total=store.state.events)
                    advance = partial(_advance, bar, task)
                    inspections.append(inspect_partition(store, top=top, progress=advance))
            except StoreError as error:
                unreadable[number] = str(error)

    def text() -> Iterator[Part]:
        if len(numbers) == 1:
            for inspection in inspections:
                yield from _spaced(partition_tables(inspection))
        else:
            yield summary_table(inspections)
            yield f"lifeline inspect --partition {numbers[0]} prints the details of a partition"

    output.show(text=text, document=lambda: {"partitions": plain(inspections), "unreadable": plain(unreadable)})
    for number, why in unreadable.items():
        output.error(f"partition {number}: {why}")
    return not unreadable and not any(inspection.damaged for inspection in inspections)


def _advance(bar: "Progress", task: "TaskID", events: int) -> None:
    bar.update(task, completed=events)


def _inspect_user(
    settings: "Settings",
    numbers: list[int],
    user: str,
    kinds: "tuple[Kind, ...]",
    chunk_key: "int | Identity | None",
) -> "UserInspection | ChunkDetail":
    """Return the user, or one chunk of the user, from the partition that has it; raises StoreError."""
    from lifeline.store.errors import StoreError
    from lifeline.store.inspection.sequences import UnknownRecordError, has_user, inspect_chunk, inspect_user

    unreadable = []
    for number in numbers:
        try:
            with _opened(settings, number) as store:
                if has_user(store, user):
                    if chunk_key is None:
                        return inspect_user(store, user, kinds)
                    return inspect_chunk(store, user, kinds[0], chunk_key)
        except UnknownRecordError:
            raise
        except StoreError as error:
            unreadable.append(f"; partition {number} cannot be read: {error}")
    where = f"partition {numbers[0]}" if len(numbers) == 1 else f"any partition of {settings.node.data_dir}"
    raise UnknownRecordError(
        f"user {user!r} is not in {where}: name another user; user ids are case-sensitive{''.join(unreadable)}"
    )


def _show_user(
    settings: "Settings", inspection: "UserInspection | ChunkDetail", output: Output, *, show_all: bool
) -> None:
    from lifeline.cli.inspection_json import chunk_json, plain
    from lifeline.cli.inspection_tables import chunk_tables, user_tables
    from lifeline.store.inspection.sequences import ChunkDetail

    if isinstance(inspection, ChunkDetail):
        detail = inspection
        output.show(
            text=lambda: _spaced(chunk_tables(detail, settings.vocabulary, show_all=show_all)),
            document=lambda: chunk_json(detail, settings.vocabulary, show_all=show_all),
        )
    else:
        user = inspection
        output.show(text=lambda: _spaced(user_tables(user, show_all=show_all)), document=lambda: plain(user))


def _spaced(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts with an empty line after each."""
    for part in parts:
        yield part
        yield ""


@contextmanager
def _opened(settings: "Settings", number: int) -> "Iterator[InspectablePartition]":
    from lifeline.core.paths import partition_dir
    from lifeline.store.inspection.inspectable_partition import InspectablePartition
    from lifeline.store.memory import SharedMemory

    path = partition_dir(settings.node.data_dir, number)
    store = InspectablePartition.open(path, partition=number, memory=SharedMemory(settings.store))
    try:
        yield store
    finally:
        store.close()


def _user(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not UTF-8: give the user id as text", param_hint="--user") from None
    return text


def _chunk_key(text: str) -> "int | Identity":
    """Return the number or the fence of a chunk."""
    from lifeline.core.actions import Identity

    if text.isdecimal():
        return int(text)
    fence = _FENCE.fullmatch(text)
    if fence is None:
        raise typer.BadParameter(
            f"{text!r} is neither a number nor a fence: give 0 for the oldest chunk, or timestamp-item-code as "
            "`lifeline inspect --user` prints it",
            param_hint="--chunk",
        )
    return Identity(*map(int, fence.groups()))
