"""The command that measures cheaper products: `lifeline quantize`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from lifeline.cli.console import ConfigOption, DataDirOption, JsonOption, err, load, out, print_json


def quantize(
    version: Annotated[
        str | None, typer.Argument(help="a version of the configured model; without: the newest", show_default=False)
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="held-out requests that are compared")] = 400,
    candidates: Annotated[int, typer.Option(min=4, help="candidates of each, at most")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn")] = 0,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="a Markdown file that gets the tables", show_default=False)
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a version of the model loses in bfloat16, and product by product in int8, against float32.

    The requests are visits out of the data directory, which a running node may hold. A version that is accepted in
    bfloat16 is served in it from its next loading on, where scorer.precision is auto; int8 has to be asked for there.
    """
    from lifeline.learning.quantising import measure_version, report, write_report
    from lifeline.scorer.allocator import keep_memory
    from lifeline.scorer.settings import TrainSettings

    keep_memory()
    settings = load(config, node__data_dir=data_dir).settings
    training = TrainSettings(seed=seed, candidates=candidates, max_held_out=requests)
    measured = measure_version(settings, version, training, lambda what: err.print(what, highlight=False))
    if as_json:
        found = measured.found
        print_json(
            {
                "version": measured.manifest.version,
                "bfloat16": found.bfloat16._asdict(),
                "int8": None if found.int8_by_kernels is None else found.int8_by_kernels._asdict(),
                "all_int8": found.int8._asdict(),
                "mix": sorted(map(str, found.mix)),
                "mixed": None if found.mixed is None else found.mixed._asdict(),
                "products": [
                    {"product": str(one.product), "operations": one.operations, **one.agreement._asdict()}
                    for one in found.sensitivities
                ],
            }
        )
        return
    section = report(measured, shlex.join(["lifeline", *sys.argv[1:]]))
    if report_file is not None:
        write_report(report_file, section)
    out.print(Markdown(section))
