"""`lifeline experiment`: the report of an experiment."""

from typing import Annotated

import typer

from lifeline.cli.lazy import command_group
from lifeline.cli.options import BootstrapOption, ConfigOption, DataDirOption, JsonOption, load_config
from lifeline.cli.output import Output, Part, Table

experiment = command_group("Report on experiments that compare model versions.")
_DAY_MS = 86_400_000


@experiment.command("report")
def report(
    days: Annotated[
        float | None,
        typer.Option(help="count actions for so many days after a user's first exposure", show_default="until now"),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the actions of each arm's users after their first exposure.

    It also tests whether the numbers of users match the arms' shares. The experiment and its arms come from the
    configuration, which must be that of the nodes.
    """
    from lifeline.learning.experiment_report import experiment_report
    from lifeline.scorer.experiment import SUSPICIOUS_P

    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    result = experiment_report(settings, None if days is None else int(days * _DAY_MS))

    def text() -> list[Part]:
        fits = (
            "they match"
            if result.sample_ratio_p >= SUSPICIOUS_P
            else "they do NOT match: do not trust the results below"
        )
        columns = ("actions of a user", "control>", "arm>", "lift>", "95 % interval>", "p>")
        return [
            Table(
                f"Experiment {result.experiment}",
                ("arm", "users>"),
                [(arm, f"{number:,}") for arm, number in result.users.items()],
            ),
            f"not counted: {result.crossed:,} users of several arms, and {result.elsewhere:,} users of other nodes",
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
