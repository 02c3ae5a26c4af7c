"""The commands for the model of a node: `lifeline model`."""

from typing import Annotated

import typer

from lifeline.cli.console import AddressOption, ConfigOption, JsonOption, load, out, print_json
from lifeline.ops.node_client import node_client

model_app = typer.Typer(help="The model that a node scores with.", no_args_is_help=True)


@model_app.command("show")
def model_show(config: ConfigOption = None, address: AddressOption = None, as_json: JsonOption = False) -> None:
    """Show which version answers on a node, and which it could load."""
    with node_client(load(config, node__grpc_address=address).settings) as client:
        found = client.get_model()
    if as_json:
        print_json(found._asdict() | {"versions": list(found.versions)})
        return
    for version in found.versions:
        out.print(f"{'*' if version == found.version else ' '} {version}", highlight=False, soft_wrap=True)
    answers = f"{found.name} {found.version} answers" if found.version else "no version answers"
    out.print(f"{answers}; kernels: {found.kernels}", highlight=False, soft_wrap=True)


@model_app.command("use")
def model_use(
    version: Annotated[
        str, typer.Argument(help="one of `lifeline model show`; without: the newest", show_default=False)
    ] = "",
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a version answer from the next request on; requests under way end with the one before.

    It holds for this node, until its next start: that loads scorer.version, or the newest.
    """
    with node_client(load(config, node__grpc_address=address).settings, timeout_s=60.0) as client:
        now, before = client.use_model(version)
    if as_json:
        print_json({"version": now, "previous": before})
        return
    out.print(f"{now} answers{f', in the place of {before}' if before else ''}", highlight=False, soft_wrap=True)
