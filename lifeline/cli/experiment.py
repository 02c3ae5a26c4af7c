"""Commands for experiments: `lifeline experiment report`."""

from typing import Annotated

import typer

from lifeline.cli.console import (
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    load,
    out,
    print_json,
    table,
)

experiment_app = typer.Typer(help="Experiments: versions of a model side by side.", no_args_is_help=True)
_DAY_MS = 86_400_000


@experiment_app.callback()
def experiment() -> None:
    """Group the commands."""


@experiment_app.command()
def report(
    days: Annotated[
        float | None,
        typer.Option(help="how long after a user's first exposure actions count; without: to now", show_default=False),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what users of each arm did after they were answered, and whether the numbers of users can be trusted.

    The configuration names the experiment and its arms, as its nodes have them.
    """
    from lifeline.learning.experiment_report import experiment_report
    from lifeline.scorer.experiment import SUSPICIOUS_P

    settings = load(config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir).settings
    found = experiment_report(settings, None if days is None else int(days * _DAY_MS))
    if as_json:
        compared = [
            {"arm": one.arm, "lifts": {what: lift._asdict() for what, lift in one.lifts.items()}}
            for one in found.compared
        ]
        print_json(found._asdict() | {"compared": compared})
        return
    users = [(name, f"{number:,}") for name, number in found.users.items()]
    out.print(table(f"Experiment {found.experiment}", ("arm", "users>"), users))
    out.print(
        f"{found.crossed:,} users were answered by several arms, and {found.elsewhere:,} are stored elsewhere: they "
        "count in none.",
        highlight=False,
        soft_wrap=True,
    )
    fits = "they fit" if found.sample_ratio_p >= SUSPICIOUS_P else "they do NOT fit: trust nothing below"
    out.print(f"Numbers of users against the arms' shares: p {found.sample_ratio_p:.4f}, {fits}.", highlight=False)
    columns = ("actions of a user", "control>", "arm>", "lift>", "95 % interval>", "p>")
    for one in found.compared:
        rows = [
            (
                what,
                f"{lift.control:.4f}",
                f"{lift.treated:.4f}",
                f"{lift.lift:+.2%}",
                f"[{lift.low:+.2%}, {lift.high:+.2%}]",
                f"{lift.p:.4f}",
            )
            for what, lift in one.lifts.items()
        ]
        out.print(table(f"{one.arm} against control", columns, rows))
