"""The command that looks into what is stored: a partition, a user, a chunk."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType
from rich.progress import Progress, TaskID

from lifeline.cli.console import ConfigOption, DataDirOption, JsonOption, complain, load, out, print_json, progress
from lifeline.config import Settings
from lifeline.core.actions import Identity, Kind
from lifeline.core.paths import partition_dir, partitions_in
from lifeline.store.errors import StoreError

if TYPE_CHECKING:
    from lifeline.store.inspection.inspected import InspectedPartition
    from lifeline.store.inspection.sequences import ChunkDetail, UserInspection

PartitionOption = Annotated[int | None, typer.Option(help="this partition alone", min=0, show_default=False)]

_FENCE = re.compile(r"(-?\d+)-(\d+)-(\d+)")


def inspect(
    partition: PartitionOption = None,
    user: Annotated[str | None, typer.Option(help="look into this user", show_default=False)] = None,
    kind: Annotated[
        Literal["explicit", "impression"] | None, typer.Option(help="this sequence of the user", show_default=False)
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            help="this chunk of the sequence (explicit without --kind), by its number or fence",
            metavar="N|FENCE",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="how many of the largest users to name", min=0)] = 10,
    show_all: Annotated[bool, typer.Option("--all", help="every chunk of a user, every event of a chunk")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look into the stored bytes: sizes, encodings, ratios, histograms, the largest users, what is broken.

    Without --user: every partition, or one in all its parts where there is only one or --partition names it. The
    node may be running. Exit code 1 when a record is broken: it is named, and the rest is shown all the same.
    """
    if user is None and (kind is not None or chunk is not None):
        raise typer.BadParameter("they are about one user: give --user too", param_hint="--kind, --chunk")
    wanted = None if chunk is None else _chunk(chunk)
    settings = load(config, node__data_dir=data_dir).settings
    numbers = partitions_of(settings, partition)
    if user is None:
        whole = _show_partitions(settings, numbers, top, as_json=as_json)
    else:
        kinds = (Kind[(kind or "explicit").upper()],) if kind or chunk else tuple(Kind)
        found = _find(settings, numbers, _user(user), kinds, wanted)
        _show(settings, found, show_all=show_all, as_json=as_json)
        whole = not found.damages
    if not whole:
        raise typer.Exit(1)


def partitions_of(settings: Settings, partition: int | None) -> list[int]:
    """Return the partitions of the data directory, or the one that is asked for; raises StoreError without it."""
    numbers = partitions_in(settings.node.data_dir)
    if not numbers:
        raise StoreError(f"{settings.node.data_dir} holds no partition: name the node's directory with --data-dir")
    if partition is None:
        return numbers
    if partition not in numbers:
        there = ", ".join(map(str, numbers))
        raise StoreError(f"{settings.node.data_dir} has no partition {partition}: name one of {there}")
    return [partition]


def _show_partitions(settings: Settings, numbers: list[int], top: int, *, as_json: bool) -> bool:
    """Look into partitions; returns whether every record is whole."""
    from lifeline.cli.inspection_json import plain
    from lifeline.cli.inspection_tables import partition_tables, summary_table
    from lifeline.store.inspection.partition import inspect_partition

    inspections, unreadable = [], {}
    with progress() as bar:
        for number in numbers:
            task = bar.add_task(f"reading partition {number}", total=None, note="")
            try:
                with _opened(settings, number) as store:
                    bar.update(task, total=store.state.events)
                    advance = partial(_advance, bar, task)
                    inspections.append(inspect_partition(store, top=top, progress=advance))
            except StoreError as error:
                unreadable[number] = str(error)
    if as_json:
        print_json({"partitions": plain(inspections), "unreadable": plain(unreadable)})
    elif len(numbers) == 1:
        for inspection in inspections:
            _print(partition_tables(inspection))
    else:
        out.print(summary_table(inspections))
        out.print(f"lifeline inspect --partition {numbers[0]} shows the parts of one", highlight=False)
    for number, why in unreadable.items():
        complain(f"partition {number}: {why}")
    return not unreadable and not any(inspection.damaged for inspection in inspections)


def _advance(bar: Progress, task: TaskID, events: int) -> None:
    bar.update(task, completed=events)


def _find(
    settings: Settings, numbers: list[int], user: str, kinds: tuple[Kind, ...], wanted: int | Identity | None
) -> "UserInspection | ChunkDetail":
    """Return the user, or one chunk, from the partition that has it; raises StoreError."""
    from lifeline.store.inspection.sequences import UnknownRecordError, has_user, inspect_chunk, inspect_user

    unreadable = []
    for number in numbers:
        try:
            with _opened(settings, number) as store:
                if has_user(store, user):
                    if wanted is None:
                        return inspect_user(store, user, kinds)
                    return inspect_chunk(store, user, kinds[0], wanted)
        except UnknownRecordError:
            raise
        except StoreError as error:
            unreadable.append(f"; partition {number} cannot be read: {error}")
    where = f"partition {numbers[0]}" if len(numbers) == 1 else f"any partition of {settings.node.data_dir}"
    raise UnknownRecordError(
        f"user {user!r} is not in {where}: name another one; user ids are told apart to the letter{''.join(unreadable)}"
    )


def _show(settings: Settings, found: "UserInspection | ChunkDetail", *, show_all: bool, as_json: bool) -> None:
    from lifeline.cli.inspection_json import chunk_json, plain
    from lifeline.cli.inspection_tables import chunk_tables, user_tables
    from lifeline.store.inspection.sequences import ChunkDetail

    if isinstance(found, ChunkDetail):
        if as_json:
            print_json(chunk_json(found, settings.vocabulary, show_all=show_all))
        else:
            _print(chunk_tables(found, settings.vocabulary, show_all=show_all))
    elif as_json:
        print_json(plain(found))
    else:
        _print(user_tables(found, show_all=show_all))


def _print(parts: Iterable[RenderableType]) -> None:
    for part in parts:
        out.print(part, "")


@contextmanager
def _opened(settings: Settings, number: int) -> "Iterator[InspectedPartition]":
    from lifeline.store.inspection.inspected import InspectedPartition
    from lifeline.store.memory import SharedMemory

    path = partition_dir(settings.node.data_dir, number)
    store = InspectedPartition.open(path, partition=number, memory=SharedMemory(settings.store))
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


def _chunk(text: str) -> int | Identity:
    if text.isdecimal():
        return int(text)
    fence = _FENCE.fullmatch(text)
    if fence is None:
        raise typer.BadParameter(
            f"{text!r} is neither a number nor a fence: give 0 for the oldest, or timestamp-item-code as "
            "`lifeline inspect --user` lists it",
            param_hint="--chunk",
        )
    return Identity(*map(int, fence.groups()))
