"""`lifeline experiment`: the report of an experiment."""

from typing import Annotated

import typer

from lifeline.cli.lazy import command_group
from lifeline.cli.options import BootstrapOption, ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Part, Table

experiment = command_group("Experiments that compare versions of a model.")
_DAY_MS = 86_400_000


@experiment.command("report")
def report(
    days: Annotated[
        float | None,
        typer.Option(help="count actions for this long after a user's first exposure", show_default="until now"),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what users of each arm did after their first score.

    It also tests whether the numbers of users fit the arms' shares. The configuration names the experiment and its
    arms; it must be the configuration of the nodes.
    """
    from lifeline.learning.experiment_report import experiment_report
    from lifeline.scorer.experiment import SUSPICIOUS_P

    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    result = experiment_report(settings, None if days is None else int(days * _DAY_MS))

    def text() -> list[Part]:
        fits = "they fit" if result.sample_ratio_p >= SUSPICIOUS_P else "they do NOT fit: trust nothing below"
        columns = ("actions of a user", "control>", "arm>", "lift>", "95 % interval>", "p>")
        return [
            Table(
                f"Experiment {result.experiment}",
                ("arm", "users>"),
                [(arm, f"{number:,}") for arm, number in result.users.items()],
            ),
            f"not counted: {result.crossed:,} users of several arms, and {result.elsewhere:,} who are stored elsewhere",
            f"Numbers of users against the arms' shares: p {result.sample_ratio_p:.4f}, {fits}.",
            *(
                Table(
                    f"{comparison.arm} against control",
                    columns,
                    [
                        (
                            what,
                            f"{lift.control:.4f}",
                            f"{lift.treated:.4f}",
                            f"{lift.lift:+.2%}",
                            f"[{lift.low:+.2%}, {lift.high:+.2%}]",
                            f"{lift.p:.4f}",
                        )
                        for what, lift in comparison.lifts.items()
                    ],
                )
                for comparison in result.compared
            ),
        ]

    Output(as_json=as_json).show(
        text=text,
        document=lambda: (
            result._asdict()
            | {
                "compared": [
                    {
                        "arm": comparison.arm,
                        "lifts": {what: lift._asdict() for what, lift in comparison.lifts.items()},
                    }
                    for comparison in result.compared
                ]
            }
        ),
    )
