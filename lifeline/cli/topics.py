"""`lifeline topics`: the Kafka topics."""

from typing import Annotated

import typer

from lifeline.cli.lazy import command_group
from lifeline.cli.options import BootstrapOption, ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output, Table

topics = command_group("Create the Kafka topics.")


@topics.command("create")
def create(
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    partitions: Annotated[int | None, typer.Option(help="partitions of the actions topic", show_default=False)] = None,
    replication_factor: Annotated[
        int | None, typer.Option(help="replicas of each partition", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create the topics for actions, items and dead letters.

    A topic that exists is checked and never changed. Exit code 1 if a topic is unusable for a node.
    """
    from lifeline.core.topics import create_topics

    output = Output(as_json=as_json)
    settings = load_config(
        config,
        kafka__bootstrap_servers=bootstrap_servers,
        kafka__partitions=partitions,
        kafka__replication_factor=replication_factor,
    ).settings
    reports = create_topics(settings.kafka, requires_log_time=settings.store.has_ages)
    output.show(
        text=lambda: [
            Table(
                "Topics",
                ("topic", "state", "partitions>", "differences"),
                [
                    (
                        report.plan.name,
                        report.state.value,
                        report.plan.partitions,
                        "; ".join(report.differences) or "-",
                    )
                    for report in reports
                ],
            )
        ],
        document=lambda: [
            {
                "topic": report.plan.name,
                "state": report.state.value,
                "partitions": report.plan.partitions,
                "replication_factor": report.plan.replication_factor,
                "differences": list(report.differences),
            }
            for report in reports
        ],
    )
    if any(report.is_unusable for report in reports):
        output.error("nodes cannot use these topics: correct the differences")
        raise typer.Exit(1)
