"""`lifeline node`, which runs a node, and `health` and `partitions`, which query one."""

from typing import Annotated

import typer

from lifeline.cli.options import (
    AddressOption,
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    TimeoutOption,
    load_config,
)
from lifeline.cli.output import Output, Table


def node(
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    grpc_address: Annotated[
        str | None, typer.Option(help="listen here for gRPC, host:port", show_default=False)
    ] = None,
    http_address: Annotated[
        str | None, typer.Option(help="listen here for /metrics, /livez and /readyz, host:port", show_default=False)
    ] = None,
) -> None:
    """Run a node: apply the log, keep the state on disk, serve it.

    It consumes the actions topic and answers GetSequence and Score. SIGTERM stops it gracefully.
    """
    import asyncio

    from lifeline.cli.logs import configure_logs
    from lifeline.node.process import run_node

    loaded = load_config(
        config,
        kafka__bootstrap_servers=bootstrap_servers,
        node__data_dir=data_dir,
        node__grpc_address=grpc_address,
        node__http_address=http_address,
    )
    configure_logs(loaded.settings.node)
    asyncio.run(run_node(loaded))


def health(
    config: ConfigOption = None,
    address: AddressOption = None,
    service: Annotated[
        str, typer.Option(help="a gRPC service, 'readiness' or 'liveness'", show_default="the node")
    ] = "",
    timeout: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Check whether a node serves: exit code 0 if it does, else 1."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from lifeline.core.security import CallSecurity

    settings = load_config(config, node__grpc_address=address).settings
    target = settings.node.grpc_address
    # The health service needs no token.
    with CallSecurity.of(settings.security).without_token().channel(target, ()) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            call: grpc.Call = error  # type: ignore[assignment]
            status, details = call.code().name, call.details() or ""
            if call.code() is grpc.StatusCode.NOT_FOUND:
                details = "there is no such service: use readiness, liveness, or a service of the protos"
        else:
            status, details = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status), ""
    Output(as_json=as_json).show(
        text=lambda: [f"{target}: {status}{f': {details}' if details else ''}"],
        document=lambda: {"address": target, "service": service, "status": status, "details": details},
    )
    raise typer.Exit(0 if status == "SERVING" else 1)


def partitions(
    config: ConfigOption = None,
    address: AddressOption = None,
    timeout: TimeoutOption = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Show the partitions of a node, and the owners of the others."""
    from lifeline.ops.node_client import node_client

    settings = load_config(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout) as client:
        reply = client.list_partitions()
    held = [
        (
            partition.partition,
            partition.role,
            partition.state,
            f"{partition.applied_offset:,}",
            f"{partition.lag_records:,}",
            f"{partition.events:,}",
            partition.fingerprint,
        )
        for partition in reply.held
    ]
    columns = ("partition>", "role", "state", "applied offset>", "lag>", "events>", "fingerprint")
    owners = [(partition.partition, partition.owner, ", ".join(partition.standbys)) for partition in reply.placed]
    Output(as_json=as_json).show(
        text=lambda: [
            Table(f"Held by {reply.address}", columns, held),
            *(
                f"partition {partition.partition} is {partition.state}: {partition.reason}"
                for partition in reply.held
                if partition.reason
            ),
            Table("The group", ("partition>", "owner", "standbys"), owners),
        ],
        document=lambda: {
            "address": reply.address,
            "held": [partition._asdict() for partition in reply.held],
            "placed": [partition._asdict() for partition in reply.placed],
        },
    )
