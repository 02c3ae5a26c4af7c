"""`lifeline fingerprint`: the fingerprints of partitions on disk, recounted or compared with another directory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.inspect import PartitionOption, partitions_of
from lifeline.cli.options import ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Table
from lifeline.cli.verify import EXIT_DIFFERENT

if TYPE_CHECKING:
    from lifeline.ops.fingerprints import PartitionPair, StoredFingerprint


def fingerprint(
    partition: PartitionOption = None,
    recount: Annotated[bool, typer.Option("--recount", help="compute the fingerprint again from all events")] = False,
    other: Annotated[
        Path | None,
        typer.Option("--with", metavar="DIR", help="a data directory to compare with", show_default=False),
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the fingerprint of each partition on disk.

    It also prints the applied offset and the number of events; the node may be running. Two copies of a partition at
    equal offsets must have equal fingerprints. Exit code 3 if a recount or the other directory differs, 1 if a
    partition cannot be read.
    """
    from lifeline.core.paths import partitions_in
    from lifeline.ops.fingerprints import Likeness, pair_partitions, stored_fingerprints
    from lifeline.store.errors import StoreError

    output = Output(as_json=as_json)
    settings = load_config(config, node__data_dir=data_dir).settings
    here = stored_fingerprints(settings, settings.node.data_dir, partitions_of(settings, partition), recounted=recount)
    there = []
    if other is not None:
        numbers = [number for number in partitions_in(other) if partition in {None, number}]
        if not numbers:
            missing = "no partition" if partition is None else f"no partition {partition}"
            raise StoreError(f"{other} holds {missing}: name the data directory of a node that has it")
        there = stored_fingerprints(settings, other, numbers, recounted=recount)
    compared = pair_partitions(here, there) if other is not None else []
    output.show(
        text=lambda: [
            _own_table(here, settings.node.data_dir)
            if other is None
            else _pairs_table(compared, settings.node.data_dir, other)
        ],
        document=lambda: _document(here, compared),
    )
    stored = [*here, *there]
    problems = [(copy.partition, copy.problem) for copy in stored]
    for number, problem in [*problems, *((pair.partition, pair.note) for pair in compared)]:
        if problem:
            output.error(f"partition {number}: {problem}")
    if any(copy.differs for copy in stored) or any(pair.likeness is Likeness.DIFFERENT for pair in compared):
        raise typer.Exit(EXIT_DIFFERENT)
    if any(copy.why for copy in stored):
        raise typer.Exit(1)


def _document(here: "list[StoredFingerprint]", compared: "list[PartitionPair]") -> dict[str, object]:
    if not compared:
        return {"partitions": [copy.as_json() for copy in here]}
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


def _own_table(stored: "list[StoredFingerprint]", directory: Path) -> Table:
    columns = ("", "offset>", "events>", "fingerprint", "result")
    return Table(f"Fingerprints in {directory}", columns, [(copy.partition, *copy.cells) for copy in stored])


def _pairs_table(compared: "list[PartitionPair]", here: Path, there: Path) -> Table:
    rows: list[tuple[object, ...]] = []
    for pair in compared:
        sides = [(name, copy) for name, copy in (("here", pair.here), ("there", pair.there)) if copy is not None]
        rows += [(pair.partition, name, *copy.cells) for name, copy in sides]
        rows.append(("", pair.likeness.value, "", "", "", ""))
    columns = ("", "", "offset>", "events>", "fingerprint", "")
    return Table(f"Fingerprints here, in {here}, and there, in {there}", columns, rows)
