"""The command that shows what a node holds, and where the rest is: `lifeline partitions`."""

from typing import Annotated

import typer

from lifeline.cli.console import AddressOption, ConfigOption, JsonOption, load, out, print_json, table
from lifeline.ops.node_client import node_client


def partitions(
    config: ConfigOption = None,
    address: AddressOption = None,
    timeout: Annotated[float, typer.Option(help="seconds")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Show the partitions that a node owns and follows, and who owns the others."""
    settings = load(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout) as client:
        found = client.list_partitions()
    if as_json:
        print_json(
            {
                "address": found.address,
                "held": [one._asdict() for one in found.held],
                "placed": [one._asdict() for one in found.placed],
            }
        )
        return
    rows = [
        (
            one.partition,
            one.role,
            one.state,
            f"{one.applied_offset:,}",
            f"{one.lag_records:,}",
            f"{one.events:,}",
            one.fingerprint,
        )
        for one in found.held
    ]
    columns = ("partition>", "role", "state", "applied offset>", "lag>", "events>", "fingerprint")
    out.print(table(f"Held by {found.address}", columns, rows))
    for one in found.held:
        if one.reason:
            out.print(f"partition {one.partition} is {one.state}: {one.reason}", highlight=False, soft_wrap=True)
    places = [(one.partition, one.owner, ", ".join(one.standbys)) for one in found.placed]
    out.print(table("The group", ("partition>", "owner", "standbys"), places))
