"""`lifeline model`: shows or changes the model version of a node."""

from typing import Annotated

import typer

from lifeline.cli.lazy import command_group
from lifeline.cli.options import AddressOption, ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output

model = command_group("Show or change the model version of a node.")
_USE_TIMEOUT_S = 60.0


@model.command("show")
def show(config: ConfigOption = None, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Show the version in use, and those that the node can load."""
    from lifeline.ops.node_client import node_client

    with node_client(load_config(config, node__grpc_address=address).settings) as client:
        reply = client.get_model()
    serving = f"{reply.name} {reply.version} is in use" if reply.version else "no version is in use"
    Output(as_json=as_json).show(
        text=lambda: [
            *(f"{'*' if version == reply.version else ' '} {version}" for version in reply.versions),
            f"{serving}; kernels: {reply.kernels}",
        ],
        document=lambda: reply._asdict() | {"versions": list(reply.versions)},
    )


@model.command("use")
def use(
    version: Annotated[
        str,
        typer.Argument(help="a version that `lifeline model show` prints", show_default="the newest"),
    ] = "",
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the version for all new requests.

    Running requests finish with the old version. The change applies to this node, until it restarts: a node starts with
    scorer.version, or with the newest version.
    """
    from lifeline.ops.node_client import node_client

    with node_client(load_config(config, node__grpc_address=address).settings, timeout_s=_USE_TIMEOUT_S) as client:
        current, previous = client.use_model(version)
    Output(as_json=as_json).show(
        text=lambda: [f"{current} is in use{f', instead of {previous}' if previous else ''}"],
        document=lambda: {"version": current, "previous": previous},
    )
