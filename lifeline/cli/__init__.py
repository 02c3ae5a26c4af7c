"""The `lifeline` command. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 two states differ."""

import sys

import typer
from rich.markup import escape

from lifeline.cli.admin import config_app, health, limits, metrics, token, topics_app
from lifeline.cli.console import err
from lifeline.cli.data import erase, explain, get, produce, score, verify
from lifeline.cli.dlq import dlq_app
from lifeline.cli.evaluate import evaluate
from lifeline.cli.experiment import experiment_app
from lifeline.cli.fingerprint import fingerprint
from lifeline.cli.inspect import inspect
from lifeline.cli.load import load
from lifeline.cli.model import model_app
from lifeline.cli.partitions import partitions
from lifeline.cli.quantize import quantize
from lifeline.cli.replay import replay, replay_partition
from lifeline.cli.run import bench, broker, demo, node
from lifeline.cli.simulate import simulate
from lifeline.cli.snapshot import snapshot_app
from lifeline.cli.train import train
from lifeline.client import LifelineError
from lifeline.config import ConfigError, NodeSettings
from lifeline.errors import NodeError
from lifeline.kafka_jars import BrokerError
from lifeline.logs import configure_logs
from lifeline.sources import SourceError
from scorer.errors import ScorerError
from store.errors import StoreError
from stream.errors import StreamError

EXIT_FAILED, EXIT_USAGE = 1, 2
EXPECTED = (
    BrokerError,
    LifelineError,
    NodeError,
    ScorerError,
    SourceError,
    StoreError,
    StreamError,
    TimeoutError,
)

app = typer.Typer(
    name="lifeline",
    help=(
        "Every user's whole history, seconds old at most, compressed on local disk, and scored where it lies. "
        "Exit codes: 0 done, 1 failed, 2 wrong use or setting, 3 two states differ."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    node,
    produce,
    get,
    score,
    explain,
    erase,
    partitions,
    verify,
    replay,
    fingerprint,
    inspect,
    train,
    evaluate,
    quantize,
    simulate,
    demo,
    broker,
    bench,
    load,
    health,
    metrics,
    limits,
    token,
):
    app.command()(command)
app.command(hidden=True)(replay_partition)
app.add_typer(topics_app, name="topics")
app.add_typer(dlq_app, name="dlq")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(model_app, name="model")
app.add_typer(experiment_app, name="experiment")
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the program; what is expected to go wrong is one clear sentence, not a traceback."""
    # Commands say what they do themselves; a node turns its log on as it is configured.
    configure_logs(NodeSettings(log_level="error"))
    try:
        app()
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        sys.exit(EXIT_USAGE)
    except EXPECTED as error:
        _complain(str(error))
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in {"lifeline", "stream", "store", "scorer"}:
            raise
        _complain(
            f"this command needs {error.name}, which is not installed: install the package with its extras, "
            "'lifeline[all]'"
        )
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(what: str) -> None:
    err.print("[bold red]error:[/]", escape(what), highlight=False, soft_wrap=True)
