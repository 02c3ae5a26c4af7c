"""Commands that run something: node, broker, demo, bench."""

import asyncio
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.console import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    complain,
    load,
    out,
    print_json,
)


def node(
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    grpc_address: Annotated[str | None, typer.Option(help="host:port that gRPC listens on", show_default=False)] = None,
    http_address: Annotated[
        str | None, typer.Option(help="host:port of /metrics, /livez and /readyz", show_default=False)
    ] = None,
) -> None:
    """Run a node: consume the actions topic, keep the state on disk, serve GetSequence and Score."""
    from lifeline.cli.logs import configure_logs
    from lifeline.node.node import run_node

    loaded = load(
        config,
        kafka__bootstrap_servers=bootstrap_servers,
        node__data_dir=data_dir,
        node__grpc_address=grpc_address,
        node__http_address=http_address,
    )
    configure_logs(loaded.settings.node)
    asyncio.run(run_node(loaded))


def broker(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="where it keeps its log; without: a directory that goes with it", show_default=False),
    ] = None,
    port: Annotated[int | None, typer.Option(help="a free one without it", show_default=False)] = None,
) -> None:
    """Run Apache Kafka in the foreground, for development: fetched once, one process, no Java needed."""
    from lifeline.cli.fetch import fetch_display
    from lifeline.dev.broker import Broker

    with fetch_display() as shown, Broker.start(data_dir, port=port, progress=shown) as running:
        out.print(f"Apache Kafka is ready at {running.bootstrap_servers} (pid {running.pid}); Ctrl-C stops it")
        code = running.wait()
    if code:
        complain(f"Kafka ended with code {code}: see its log in the data directory")
        raise typer.Exit(1)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running, and say what to try next")] = False,
    bootstrap_servers: BootstrapOption = None,
    train_seconds: Annotated[float, typer.Option(help="about how long the small model trains")] = 60.0,
) -> None:
    """Show the main job from nothing: a history into Kafka, into the store, read, scored, and one action more."""
    from lifeline.cli.demo import run_demo

    run_demo(keep=keep, bootstrap_servers=bootstrap_servers, train_seconds=train_seconds)


def bench(
    name: Annotated[str | None, typer.Argument(help="which one; without: list them", show_default=False)] = None,
    parts: Annotated[
        list[str] | None, typer.Argument(help="only these parts of one that has parts", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="of each phase of one that has phases; without: its own", show_default=False),
    ] = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark. It exits with 0 whatever falls short: a person reads the table."""
    try:
        package = importlib.import_module("benchmarks")
    except ModuleNotFoundError:
        complain("the benchmarks are not installed: run this in a checkout of the project")
        raise typer.Exit(1) from None
    modules: Mapping[str, str] = package.MODULES
    if name is None:
        for each, path in modules.items():
            doc = importlib.import_module(path).__doc__ or ""
            out.print(f"lifeline bench {each}   {doc.splitlines()[0]}", highlight=False, soft_wrap=True)
        return
    if name not in modules:
        complain(f"there is no benchmark {name!r}: use one of {', '.join(modules)}")
        raise typer.Exit(2)
    module = importlib.import_module(modules[name])
    known: tuple[str, ...] = tuple(getattr(module, "PARTS", ()))
    if unknown := [part for part in parts or () if part not in known]:
        has = f"use one of {', '.join(known)}" if known else "it has none: leave that out"
        complain(f"{name} has no part {unknown[0]!r}: {has}")
        raise typer.Exit(2)
    if seconds is not None and not hasattr(module, "SECONDS"):
        complain(f"{name} has no phases: leave --seconds out")
        raise typer.Exit(2)
    phases = {} if seconds is None else {"seconds": seconds}
    report = module.run(bootstrap_servers, *([parts] if parts else []), **phases)
    if as_json:
        print_json(report.as_json())
    else:
        out.print(report.table())
