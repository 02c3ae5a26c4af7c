"""`lifeline broker`, `demo` and `bench`: to try, develop and measure Lifeline on one machine."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lifeline
from lifeline.cli.options import BootstrapOption, JsonOption
from lifeline.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Mapping


def broker(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="directory of its log", show_default="a temporary one"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on", show_default="a free one")] = None,
) -> None:
    """Run Apache Kafka in the foreground, for development.

    Kafka is downloaded once and runs as one process. You need not install Java.
    """
    from lifeline.cli.fetch import fetch_display
    from lifeline.dev.broker import Broker

    output = Output()
    with fetch_display() as progress, Broker.start(data_dir, port=port, progress=progress) as running:
        output.print(f"Apache Kafka is ready at {running.bootstrap_servers} (pid {running.pid}); Ctrl-C stops it")
        code = running.wait()
    if code:
        output.error(f"Kafka ended with code {code}: see its log in the data directory")
        raise typer.Exit(1)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="keep everything running and print commands to try")] = False,
    bootstrap_servers: BootstrapOption = None,
    train_seconds: Annotated[float, typer.Option(help="approximate training time of the small model")] = 60.0,
) -> None:
    """Run the whole path once, on a real Kafka and a real history.

    It publishes a history, applies it, reads and scores it; then one more action changes a score.
    """
    from lifeline.cli.demo import run_demo

    run_demo(keep=keep, bootstrap_servers=bootstrap_servers, train_seconds=train_seconds)


def bench(
    name: Annotated[str | None, typer.Argument(help="a benchmark", show_default="list them")] = None,
    parts: Annotated[list[str] | None, typer.Argument(help="parts of it to run", show_default="all")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, help="length of each phase, if it has phases", show_default="its own"),
    ] = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark; needs a checkout of the project.

    The exit code is 0 even if a figure misses its target.
    """
    output = Output(as_json=as_json)
    modules = _benchmarks()
    if modules is None:
        output.error(
            "the benchmarks are not part of the installed package: run this, or `python -m benchmarks`, in a checkout "
            "of the project"
        )
        raise typer.Exit(1)
    if name is None:
        for known, path in modules.items():
            summary = (import_module(path).__doc__ or "").partition("\n")[0]
            output.print(f"lifeline bench {known}   {summary}")
        return
    if name not in modules:
        output.error(f"there is no benchmark {name!r}: use one of {', '.join(modules)}")
        raise typer.Exit(2)
    module = import_module(modules[name])
    known_parts: tuple[str, ...] = tuple(getattr(module, "PARTS", ()))
    if unknown := [part for part in parts or () if part not in known_parts]:
        remedy = f"use one of {', '.join(known_parts)}" if known_parts else "it has no parts, so name none"
        output.error(f"{name} has no part {unknown[0]!r}: {remedy}")
        raise typer.Exit(2)
    if seconds is not None and not hasattr(module, "SECONDS"):
        output.error(f"{name} has no phases: leave --seconds out")
        raise typer.Exit(2)
    phases = {} if seconds is None else {"seconds": seconds}
    report = module.run(bootstrap_servers, *([parts] if parts else []), **phases)
    output.show(text=lambda: [report.table()], document=report.as_json)


def _benchmarks() -> "Mapping[str, str] | None":
    """Return the module of each benchmark by name; None if `benchmarks` is not beside this package."""
    try:
        package = import_module("benchmarks")
    except ModuleNotFoundError:
        return None
    if Path(str(package.__file__)).parents[1] != Path(str(lifeline.__file__)).parents[1]:
        return None
    modules: Mapping[str, str] = package.MODULES
    return modules
