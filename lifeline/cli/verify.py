"""`lifeline verify`: compares the state with an independent computation."""

import time
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.options import (
    AddressOption,
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    config_flags,
    load_config,
)
from lifeline.cli.output import Output, Table

EXIT_DIFFERENT = 3
_FINGERPRINT_DIGITS = 16
"""Digits of a fingerprint in a table; JSON has all of them."""


def verify(
    source: Annotated[
        Path | None,
        typer.Argument(help="a file to compare the node's answers with", show_default="the log"),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the state with a replay of the log, or with a file.

    Without a file, every partition of the data directory is replayed from the topic up to its applied offset, and the
    fingerprints are compared; the node may be running. With a file, the sequences of its users are computed in plain
    Python and compared with the node's answers; other users are not compared. Exit code 3 if anything differs.
    """
    from lifeline.ops.verify import verify_file, verify_log
    from lifeline.sources.files import open_source

    output = Output(as_json=as_json)
    settings = load_config(
        config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir, node__grpc_address=address
    ).settings
    started = time.monotonic()
    with output.progress() as bar:
        report = (
            verify_file(settings, open_source(source, settings.vocabulary), bar)
            if source
            else verify_log(settings, config_flags(config, bootstrap_servers), bar)
        )
    rows = [
        (
            comparison.name,
            comparison.as_of if comparison.as_of >= 0 else "-",
            f"{comparison.events:,}",
            comparison.found[:_FINGERPRINT_DIGITS] if comparison.as_of >= 0 else comparison.found,
            "equal" if comparison.equal else "DIFFERENT",
        )
        for comparison in report.comparisons
    ]
    output.show(
        text=lambda: [
            Table(f"The state against {report.against}", ("", "offset>", "events>", "found", "result"), rows),
            f"{report.summary()} ({time.monotonic() - started:.1f} s)",
        ],
        document=report.as_json,
    )
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)
