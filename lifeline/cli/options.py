"""Options that several commands share, and loading the settings that they select. It has no slow imports."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lifeline.config import LoadedSettings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="configuration file (TOML)",
        show_default="$LIFELINE_CONFIG or ./lifeline.toml",
    ),
]
BootstrapOption = Annotated[
    str | None, typer.Option("--bootstrap-servers", help="Kafka brokers, host:port[,host:port]", show_default=False)
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="the node's gRPC address, host:port", show_default=False)
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="the node's data directory", show_default=False)]
TimeoutOption = Annotated[float, typer.Option(help="deadline of the call in seconds")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON instead of text")]


def load_config(config: Path | None, **flags: object) -> "LoadedSettings":
    """Return the settings of this call; a flag is named after its key, with ``__`` for the dot."""
    from lifeline.config import load_settings

    return load_settings(config, {key.replace("__", "."): value for key, value in flags.items()})


def config_flags(config: Path | None, bootstrap_servers: str | None) -> list[str]:
    """Return the arguments that give a child process the settings of this call."""
    return [
        *(("--config", str(config)) if config else ()),
        *(("--bootstrap-servers", bootstrap_servers) if bootstrap_servers else ()),
    ]
