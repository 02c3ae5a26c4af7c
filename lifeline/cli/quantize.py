"""`lifeline quantize`: measures the model in lower precision."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lifeline.cli.options import ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Part


def quantize(
    version: Annotated[
        str | None, typer.Argument(help="a version of the configured model", show_default="the newest")
    ] = None,
    requests: Annotated[int, typer.Option(min=10, help="held-out requests to compare")] = 400,
    candidates: Annotated[int, typer.Option(min=4, help="maximum candidates of a request")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="seed of the sampling")] = 0,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Markdown file to write the tables to", show_default=False)
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the accuracy of a model in bfloat16 and in int8.

    The scores of one version are compared with those in float32; for int8 also for each matrix product. The requests
    are visits from the data directory; the node may be running. If a version passes in bfloat16, nodes with
    scorer.precision = "auto" use bfloat16 when they next load it; int8 must be configured.
    """
    from lifeline.learning.quantization import measure_version, report, write_report
    from lifeline.scorer.allocator import keep_memory
    from lifeline.scorer.settings import TrainSettings

    output = Output(as_json=as_json)
    keep_memory()
    settings = load_config(config, node__data_dir=data_dir).settings
    training = TrainSettings(seed=seed, candidates=candidates, max_held_out=requests)
    measured = measure_version(settings, version, training, output.note)
    section = report(measured, shlex.join(["lifeline", *sys.argv[1:]]))
    if report_file is not None:
        write_report(report_file, section)

    def document() -> dict[str, object]:
        precision = measured.precision
        return {
            "version": measured.manifest.version,
            "bfloat16": precision.bfloat16._asdict(),
            "int8": None if precision.int8_by_kernels is None else precision.int8_by_kernels._asdict(),
            "all_int8": precision.int8._asdict(),
            "mix": sorted(map(str, precision.mix)),
            "mixed": None if precision.mixed is None else precision.mixed._asdict(),
            "products": [
                {
                    "product": str(sensitivity.product),
                    "operations": sensitivity.operations,
                    **sensitivity.agreement._asdict(),
                }
                for sensitivity in precision.sensitivities
            ],
        }

    output.show(text=lambda: [_markdown(section)], document=document)


def _markdown(text: str) -> Part:
    from rich.markdown import Markdown

    from lifeline.core.printable import printable

    return Markdown(printable(text, keep="\n"))
