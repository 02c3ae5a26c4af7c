"""Commands on snapshots: create, list, restore."""

from collections.abc import Iterable
from typing import Annotated

import typer

from lifeline.cli.console import (
    AddressOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    load,
    out,
    print_json,
    progress,
    table,
)
from lifeline.client import SNAPSHOT_TIMEOUT_S, PartitionSnapshot
from lifeline.ops.node_client import node_client

snapshot_app = typer.Typer(help="Snapshots: copies of partitions at a URL.", no_args_is_help=True)

UrlOption = Annotated[
    str | None, typer.Option("--url", help="where snapshots are kept; snapshot.url without it", show_default=False)
]
PartitionsOption = Annotated[
    list[int] | None,
    typer.Option("--partition", min=0, help="may be given more than once; all without it", show_default=False),
]


@snapshot_app.command("create")
def snapshot_create(
    partition: PartitionsOption = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="no node is running: read the data directory itself")
    ] = False,
    url: UrlOption = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds that the node may take")] = SNAPSHOT_TIMEOUT_S,
    config: ConfigOption = None,
    address: AddressOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a running node make snapshots of its partitions, at the URL of its own configuration.

    With --offline, of the data directory of a node that is stopped, at --url or the configured URL.
    """
    if not offline and (url is not None or data_dir is not None):
        raise typer.BadParameter(
            "a running node uses its own configuration: leave out --url and --data-dir, or stop it and use --offline"
        )
    if offline and address is not None:
        raise typer.BadParameter("--offline asks no node: leave out --address or --offline")
    settings = load(config, snapshot__url=url, node__grpc_address=address, node__data_dir=data_dir).settings
    numbers = partition or []
    with progress() as bar:
        if offline:
            from lifeline.ops.snapshots import create_offline

            made = [
                PartitionSnapshot(
                    partition=one.manifest.partition,
                    id=one.manifest.id,
                    applied_offset=one.manifest.state.applied_offset,
                    events=one.manifest.state.events,
                    fingerprint=one.manifest.state.fingerprint,
                    files=len(one.manifest.files),
                    total_bytes=one.manifest.total_bytes,
                    uploaded_files=one.uploaded_files,
                    uploaded_bytes=one.uploaded_bytes,
                    seconds=one.seconds,
                )
                for one in create_offline(settings, numbers, bar)
            ]
        else:
            bar.add_task(f"{settings.node.grpc_address} makes snapshots", total=None, note="")
            with node_client(settings) as client:
                made = client.create_snapshot(numbers, timeout_s=timeout)
    if as_json:
        print_json([one._asdict() for one in made])
        return
    rows = [
        (
            one.partition,
            one.id,
            f"{one.applied_offset:,}",
            f"{one.events:,}",
            _size(one.total_bytes),
            f"{_size(one.uploaded_bytes)} in {one.uploaded_files} of {one.files} files",
            f"{one.seconds:.1f} s",
        )
        for one in made
    ]
    columns = ("partition>", "snapshot", "offset>", "events>", "size>", "uploaded>", "took>")
    out.print(table("Snapshots made", columns, rows))


@snapshot_app.command("list")
def snapshot_list(
    partition: PartitionsOption = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the snapshots at the URL, of each partition the newest first, and why one would be refused."""
    from lifeline.store.snapshots.repository import SnapshotRepository

    repository = SnapshotRepository.of(load(config, snapshot__url=url).settings.snapshot)
    found = [one for one in repository.snapshots() if not partition or one.partition in partition]
    if as_json:
        print_json(
            [
                {
                    "partition": one.partition,
                    "id": one.id,
                    "refused": one.refused,
                    "manifest": one.manifest and one.manifest.model_dump(mode="json", exclude={"files"}),
                }
                for one in found
            ]
        )
        return
    if not found:
        out.print(f"no snapshots at {repository.url}", highlight=False, soft_wrap=True)
        return
    rows: Iterable[tuple[object, ...]] = [
        (
            one.partition,
            one.id,
            *(
                (
                    f"{one.manifest.state.events:,}",
                    _size(one.manifest.total_bytes),
                    one.manifest.state.fingerprint[:16],
                )
                if one.manifest
                else ("-", "-", "-")
            ),
            "whole" if one.refused is None else f"REFUSED: {one.refused}",
        )
        for one in found
    ]
    columns = ("partition>", "snapshot (offset-time)", "events>", "size>", "fingerprint", "state")
    out.print(table(f"Snapshots at {repository.url}", columns, rows))


@snapshot_app.command("restore")
def snapshot_restore(
    partition: PartitionsOption = None,
    snapshot: Annotated[
        str | None,
        typer.Option("--snapshot", metavar="ID", help="of the one --partition; the newest without", show_default=False),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="add up every event anew, or check the files alone")
    ] = True,
    url: UrlOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put snapshots into the data directory of a node that is stopped; it replays what follows when it starts.

    Nothing is overwritten, and nothing is left of a snapshot that is not whole and right.
    """
    from lifeline.ops.snapshots import restore

    numbers = partition or []
    if snapshot is not None and len(numbers) != 1:
        raise typer.BadParameter("--snapshot is one partition's: name that one with --partition")
    settings = load(config, snapshot__url=url, node__data_dir=data_dir).settings
    with progress() as bar:
        restored = restore(settings, numbers, bar, snapshot=snapshot, verify=verify)
    if as_json:
        print_json(
            [
                {
                    "partition": one.manifest.partition,
                    "id": one.manifest.id,
                    "path": str(one.path),
                    **one.manifest.state.model_dump(),
                    "total_bytes": one.manifest.total_bytes,
                    "verified": verify,
                    "seconds": one.seconds,
                }
                for one in restored
            ]
        )
        return
    rows = [
        (
            one.manifest.partition,
            f"{one.manifest.state.applied_offset:,}",
            f"{one.manifest.state.events:,}",
            _size(one.manifest.total_bytes),
            one.manifest.state.fingerprint[:16],
            f"{one.seconds:.1f} s",
        )
        for one in restored
    ]
    columns = ("partition>", "offset>", "events>", "size>", "fingerprint", "took>")
    title = f"Restored into {settings.node.data_dir}{', events counted anew' if verify else ''}"
    out.print(table(title, columns, rows))


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
