"""The command that shows fingerprints: of each partition on disk, recounted, and beside another directory's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from lifeline.cli.console import ConfigOption, DataDirOption, JsonOption, complain, load, out, print_json, table
from lifeline.cli.data import EXIT_DIFFERENT
from lifeline.cli.inspect import PartitionOption, partitions_of
from lifeline.core.paths import partitions_in
from lifeline.store.errors import StoreError

if TYPE_CHECKING:
    from lifeline.ops.fingerprints import Pair, StoredFingerprint


def fingerprint(
    partition: PartitionOption = None,
    recount: Annotated[bool, typer.Option("--recount", help="read every event and add it up anew")] = False,
    other: Annotated[
        Path | None,
        typer.Option("--with", metavar="DIR", help="a data directory to compare with", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print applied offset, events and fingerprint of each partition on disk; the node may be running.

    Two copies of a partition with equal offsets must have equal fingerprints. Exit code 3 when a recount or the
    other directory says something else, 1 when a partition cannot be read.
    """
    from lifeline.ops.fingerprints import Likeness, pairs, stored_fingerprints

    settings = load(config, node__data_dir=data_dir).settings
    here = stored_fingerprints(settings, settings.node.data_dir, partitions_of(settings, partition), recounted=recount)
    there = []
    if other is not None:
        numbers = [number for number in partitions_in(other) if partition in {None, number}]
        if not numbers:
            what = "no partition" if partition is None else f"no partition {partition}"
            raise StoreError(f"{other} holds {what}: name the data directory of a node that has it")
        there = stored_fingerprints(settings, other, numbers, recounted=recount)
    compared = pairs(here, there) if other is not None else []
    if as_json:
        print_json(_json(here, compared))
    elif other is None:
        columns = ("", "offset>", "events>", "fingerprint", "result")
        rows = [(one.partition, *one.cells) for one in here]
        out.print(table(f"Fingerprints in {settings.node.data_dir}", columns, rows))
    else:
        out.print(_compared(compared, settings.node.data_dir, other))
    everything = [*here, *there]
    problems = [(one.partition, one.problem) for one in everything]
    for number, problem in [*problems, *((pair.partition, pair.note) for pair in compared)]:
        if problem:
            complain(f"partition {number}: {problem}")
    if any(one.differs for one in everything) or any(pair.likeness is Likeness.DIFFERENT for pair in compared):
        raise typer.Exit(EXIT_DIFFERENT)
    if any(one.why for one in everything):
        raise typer.Exit(1)


def _json(here: "list[StoredFingerprint]", compared: "list[Pair]") -> dict[str, object]:
    if not compared:
        return {"partitions": [one.as_json() for one in here]}
    return {
        "pairs": [
            {
                "partition": pair.partition,
                "here": pair.here and pair.here.as_json(),
                "there": pair.there and pair.there.as_json(),
                "likeness": pair.likeness.value.lower(),
                "note": pair.note,
            }
            for pair in compared
        ]
    }


def _compared(compared: "list[Pair]", here: Path, there: Path) -> Group:
    rows: list[tuple[object, ...]] = []
    for pair in compared:
        sides = [(name, one) for name, one in (("here", pair.here), ("there", pair.there)) if one is not None]
        rows += [(pair.partition, name, *one.cells) for name, one in sides]
        rows.append(("", pair.likeness.value, "", "", "", ""))
    columns = ("", "", "offset>", "events>", "fingerprint", "")
    return table(f"Fingerprints here, in {here}, and there, in {there}", columns, rows)
