"""`lifeline config`: the configuration."""

from typing import Annotated

import typer

from lifeline.cli.lazy import command_group
from lifeline.cli.options import ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output, Table

config = command_group("Show the configuration.")


@config.callback()
def _root() -> None:
    pass


@config.command("show")
def show(
    config: ConfigOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="also print where each value comes from")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the value of every setting, with secrets masked."""
    rows = load_config(config).rows()
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    Output(as_json=as_json).show(
        text=lambda: [Table("Configuration", columns, [row if origin else row[:2] for row in rows])],
        document=lambda: {row.key: {"value": row.value, "origin": row.origin} if origin else row.value for row in rows},
    )
