"""Commands for operators: topics, configuration, health."""

import secrets
from typing import Annotated

import grpc
import typer

from lifeline.cli.console import (
    AddressOption,
    BootstrapOption,
    ConfigOption,
    JsonOption,
    complain,
    load,
    out,
    print_json,
    table,
)

topics_app = typer.Typer(help="The topics that Lifeline needs.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)


@topics_app.command("create")
def topics_create(
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    partitions: Annotated[int | None, typer.Option(help="of the actions topic", show_default=False)] = None,
    replication_factor: Annotated[int | None, typer.Option(help="copies of each", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the topics for actions, items and dead letters; those that exist are checked, never changed."""
    from lifeline.core.topics import create_topics

    settings = load(
        config,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__partitions=partitions,
        kafka__replication_factor=replication_factor,
    ).settings
    reports = create_topics(settings.kafka, aged=settings.store.has_ages)
    if as_json:
        print_json(
            [
                {
                    "topic": report.plan.name,
                    "state": report.state.value,
                    "partitions": report.plan.partitions,
                    "replication_factor": report.plan.replication_factor,
                    "differences": list(report.differences),
                }
                for report in reports
            ]
        )
    else:
        rows = [(r.plan.name, r.state.value, r.plan.partitions, "; ".join(r.differences) or "-") for r in reports]
        out.print(table("Topics", ("topic", "state", "partitions>", "differences"), rows))
    if any(report.fatal for report in reports):
        complain("a node must not use these topics as they are: see the differences")
        raise typer.Exit(1)


@config_app.command("show")
def config_show(
    config: ConfigOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="say where each value comes from")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print every setting as it stands; secrets are masked."""
    rows = load(config).rows()
    if as_json:
        print_json({row.key: {"value": row.value, "origin": row.origin} if origin else row.value for row in rows})
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    out.print(table("Configuration", columns, [row if origin else row[:2] for row in rows]))


def metrics(
    as_json: JsonOption = False,
) -> None:
    """Print every metric that a node serves at /metrics, as the Markdown of docs/metrics.md."""
    from lifeline.node.metrics.catalogue import CATALOGUE, as_markdown

    if as_json:
        print_json([one._asdict() | {"kind": one.kind.value} for one in CATALOGUE])
        return
    out.print(as_markdown(), markup=False, highlight=False, soft_wrap=True, end="")


def limits(
    as_json: JsonOption = False,
) -> None:
    """Print how much each field of a request may hold, as the Markdown of docs/limits.md."""
    from lifeline.core.limits import BOUNDS
    from lifeline.rpc.request_limits import as_markdown
    from lifeline.rpc.server import SERVED

    if as_json:
        print_json({name: {"most": one.most, "each": one.each, "what": one.what} for name, one in BOUNDS.items()})
        return
    out.print(as_markdown(SERVED), markup=False, highlight=False, soft_wrap=True, end="")


def token(as_json: JsonOption = False) -> None:
    """Make a token for a caller, and the hash of it that the nodes' configuration keeps."""
    from lifeline.core.security import hash_of

    made = secrets.token_urlsafe(32)
    if as_json:
        print_json({"token": made, "token_sha256": hash_of(made)})
        return
    out.print(f"for the caller's security.token:             {made}", highlight=False, soft_wrap=True)
    out.print(f"for security.callers.NAME.token_sha256:      {hash_of(made)}", highlight=False, soft_wrap=True)


def health(
    config: ConfigOption = None,
    address: AddressOption = None,
    service: Annotated[str, typer.Option(help="a gRPC service, 'readiness' or 'liveness'; the node without it")] = "",
    timeout: Annotated[float, typer.Option(help="seconds")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Ask a node whether it serves: exit code 0 when it does, 1 when not."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from lifeline.core.security import CallSecurity

    settings = load(config, node__grpc_address=address).settings
    target = settings.node.grpc_address
    # Health answers everybody, so that no token is sent.
    with CallSecurity.of(settings.security).without_token().channel(target, ()) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout
            )
        except grpc.RpcError as error:
            call: grpc.Call = error  # type: ignore[assignment]
            status, details = call.code().name, call.details() or ""
            if call.code() is grpc.StatusCode.NOT_FOUND:
                details = "there is no such service: name readiness, liveness, or a service of the protos"
        else:
            status, details = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status), ""
    if as_json:
        print_json({"address": target, "service": service, "status": status, "details": details})
    else:
        out.print(f"{target}: {status}{f': {details}' if details else ''}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if status == "SERVING" else 1)
