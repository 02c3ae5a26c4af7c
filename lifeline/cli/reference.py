"""`lifeline metrics` and `lifeline limits`: two pages of docs/, generated from the code."""

from lifeline.cli.options import JsonOption
from lifeline.cli.output import Output


def metrics(as_json: JsonOption = False) -> None:
    """Print every metric of a node, as in docs/metrics.md."""
    from lifeline.node.metrics.catalogue import CATALOGUE, as_markdown

    Output(as_json=as_json).show(
        text=lambda: as_markdown().splitlines(),
        document=lambda: [metric._asdict() | {"kind": metric.kind.value} for metric in CATALOGUE],
    )


def limits(as_json: JsonOption = False) -> None:
    """Print the limits on request fields, as in docs/limits.md."""
    from lifeline.core.limits import BOUNDS
    from lifeline.rpc.request_limits import as_markdown
    from lifeline.rpc.server import ALL_SERVICES

    Output(as_json=as_json).show(
        text=lambda: as_markdown(ALL_SERVICES).splitlines(),
        document=lambda: {
            name: {"most": bound.max_length, "each": bound.max_entry_bytes, "what": bound.description}
            for name, bound in BOUNDS.items()
        },
    )
