"""`lifeline snapshot`: create, list and restore snapshots."""

from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.formats import size
from lifeline.cli.lazy import command_group
from lifeline.cli.options import AddressOption, ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from lifeline.client import PartitionSnapshot
    from lifeline.config import Settings
    from lifeline.store.snapshots.manifest import Manifest

snapshot = command_group("Create, list and restore snapshots of partitions.")

_UrlOption = Annotated[str | None, typer.Option("--url", help="URL of the snapshots", show_default="snapshot.url")]
_PartitionsOption = Annotated[
    list[int] | None,
    typer.Option("--partition", min=0, help="only this partition; may be repeated", show_default="all"),
]
_FINGERPRINT_DIGITS = 16
"""Digits of a fingerprint in a table; JSON has all of them."""


@snapshot.command("create")
def create(
    partition: _PartitionsOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="use the data directory of a stopped node")] = False,
    url: _UrlOption = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="deadline of the call to the node in seconds", show_default="3600"),
    ] = None,
    config: ConfigOption = None,
    address: AddressOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create snapshots of a node's partitions.

    A running node creates them at the URL of its own configuration. With --offline this command creates them from the
    data directory of a stopped node, at --url or the configured URL.
    """
    if not offline and (url is not None or data_dir is not None):
        raise typer.BadParameter(
            "a running node uses its own configuration: leave --url and --data-dir out, or stop it and use --offline"
        )
    if offline and address is not None:
        raise typer.BadParameter("--offline calls no node: leave --address or --offline out")
    output = Output(as_json=as_json)
    settings = load_config(config, snapshot__url=url, node__grpc_address=address, node__data_dir=data_dir).settings
    with output.progress() as bar:
        create_snapshots = _create_offline if offline else _create_on_node
        created = create_snapshots(settings, partition or [], timeout, bar)
    output.show(
        text=lambda: [
            Table(
                "Snapshots created",
                ("partition>", "snapshot", "offset>", "events>", "size>", "uploaded>", "took>"),
                [
                    (
                        copy.partition,
                        copy.id,
                        f"{copy.applied_offset:,}",
                        f"{copy.events:,}",
                        size(copy.total_bytes),
                        f"{size(copy.uploaded_bytes)} in {copy.uploaded_files} of {copy.files} files",
                        f"{copy.seconds:.1f} s",
                    )
                    for copy in created
                ],
            )
        ],
        document=lambda: [copy._asdict() for copy in created],
    )


def _create_on_node(
    settings: "Settings", partitions: list[int], timeout: float | None, bar: "Progress"
) -> "list[PartitionSnapshot]":
    from lifeline.client import SNAPSHOT_TIMEOUT_S
    from lifeline.ops.node_client import node_client

    bar.add_task(f"{settings.node.grpc_address} creates snapshots", total=None, note="")
    with node_client(settings) as client:
        return client.create_snapshot(partitions, timeout_s=timeout or SNAPSHOT_TIMEOUT_S)


def _create_offline(
    settings: "Settings", partitions: list[int], _timeout: float | None, bar: "Progress"
) -> "list[PartitionSnapshot]":
    from lifeline.client import PartitionSnapshot
    from lifeline.ops.snapshots import create_offline

    return [
        PartitionSnapshot(
            partition=created.manifest.partition,
            id=created.manifest.id,
            applied_offset=created.manifest.state.applied_offset,
            events=created.manifest.state.events,
            fingerprint=created.manifest.state.fingerprint,
            files=len(created.manifest.files),
            total_bytes=created.manifest.total_bytes,
            uploaded_files=created.uploaded_files,
            uploaded_bytes=created.uploaded_bytes,
            seconds=created.seconds,
        )
        for created in create_offline(settings, partitions, bar)
    ]


@snapshot.command("list")
def list_snapshots(
    partition: _PartitionsOption = None,
    url: _UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the snapshots at the URL, newest first.

    The state of a snapshot that cannot be restored gives the reason.
    """
    from lifeline.store.snapshots.repository import SnapshotRepository

    repository = SnapshotRepository.of(load_config(config, snapshot__url=url).settings.snapshot)
    listed = [copy for copy in repository.snapshots() if not partition or copy.partition in partition]
    columns = ("partition>", "snapshot (offset-time)", "events>", "size>", "fingerprint", "state")
    Output(as_json=as_json).show(
        text=lambda: [
            Table(
                f"Snapshots at {repository.url}",
                columns,
                [
                    (
                        copy.partition,
                        copy.id,
                        *_manifest_cells(copy.manifest),
                        "intact" if copy.problem is None else f"REFUSED: {copy.problem}",
                    )
                    for copy in listed
                ],
            )
            if listed
            else f"no snapshots at {repository.url}"
        ],
        document=lambda: [
            {
                "partition": copy.partition,
                "id": copy.id,
                "refused": copy.problem,
                "manifest": copy.manifest and copy.manifest.model_dump(mode="json", exclude={"files"}),
            }
            for copy in listed
        ],
    )


def _manifest_cells(manifest: "Manifest | None") -> tuple[str, str, str]:
    if manifest is None:
        return "-", "-", "-"
    return (
        f"{manifest.state.events:,}",
        size(manifest.total_bytes),
        manifest.state.fingerprint[:_FINGERPRINT_DIGITS],
    )


@snapshot.command("restore")
def restore(
    partition: _PartitionsOption = None,
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--snapshot",
            metavar="ID",
            help="this snapshot; needs one --partition",
            show_default="the newest",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="recount all events, or only check the files")
    ] = True,
    url: _UrlOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore snapshots into the data directory of a stopped node.

    When the node starts, it applies the later records of the log. Existing partitions are not overwritten, and an
    incomplete or damaged snapshot is not restored at all.
    """
    from lifeline.ops.snapshots import restore as restore_snapshots

    output = Output(as_json=as_json)
    numbers = partition or []
    if snapshot is not None and len(numbers) != 1:
        raise typer.BadParameter("--snapshot needs exactly one --partition")
    settings = load_config(config, snapshot__url=url, node__data_dir=data_dir).settings
    with output.progress() as bar:
        restored = restore_snapshots(settings, numbers, bar, snapshot=snapshot, verify=verify)
    output.show(
        text=lambda: [
            Table(
                f"Restored into {settings.node.data_dir}{', every event counted' if verify else ''}",
                ("partition>", "offset>", "events>", "size>", "fingerprint", "took>"),
                [
                    (
                        copy.manifest.partition,
                        f"{copy.manifest.state.applied_offset:,}",
                        *_manifest_cells(copy.manifest),
                        f"{copy.seconds:.1f} s",
                    )
                    for copy in restored
                ],
            )
        ],
        document=lambda: [
            {
                "partition": copy.manifest.partition,
                "id": copy.manifest.id,
                "path": str(copy.path),
                **copy.manifest.state.model_dump(),
                "total_bytes": copy.manifest.total_bytes,
                "verified": verify,
                "seconds": copy.seconds,
            }
            for copy in restored
        ],
    )
