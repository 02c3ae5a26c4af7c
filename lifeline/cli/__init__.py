"""The `lifeline` command. Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 two states differ."""

import io
import sys

import typer
from typer.main import get_command

from lifeline import INSTALL
from lifeline.cli.admin import config_app, health, limits, metrics, token, topics_app
from lifeline.cli.console import complain
from lifeline.cli.data import erase, explain, get, produce, score, verify
from lifeline.cli.dlq import dlq_app
from lifeline.cli.evaluate import evaluate
from lifeline.cli.experiment import experiment_app
from lifeline.cli.fingerprint import fingerprint
from lifeline.cli.inspect import inspect
from lifeline.cli.load import load
from lifeline.cli.logs import configure_logs, print_uncaught
from lifeline.cli.model import model_app
from lifeline.cli.partitions import partitions
from lifeline.cli.quantize import quantize
from lifeline.cli.replay import replay, replay_partition
from lifeline.cli.run import bench, broker, demo, node
from lifeline.cli.simulate import simulate
from lifeline.cli.snapshot import snapshot_app
from lifeline.cli.train import train
from lifeline.client import LifelineError
from lifeline.config import ConfigError
from lifeline.core.errors import NodeError
from lifeline.core.kafka_errors import StreamError
from lifeline.core.printable import printable
from lifeline.dev.kafka_jars import BrokerError
from lifeline.rpc.settings import NodeSettings
from lifeline.scorer.errors import ScorerError
from lifeline.sources.files import SourceError
from lifeline.store.errors import StoreError

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
    pretty_exceptions_show_locals=False,
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
    print_uncaught()
    try:
        # Not by calling `app`: that would put a hook of typer's in the place of ours.
        sys.exit(get_command(app).main(standalone_mode=False))
    except typer.TyperException as error:
        # As typer would print it, but escaped: an argument may be the name of a file that somebody else chose.
        text = io.StringIO()
        error.show(text)  # type: ignore[attr-defined] # of all those that it raises
        sys.stderr.write(printable(text.getvalue(), keep="\n"))
        sys.exit(error.exit_code)
    except ConfigError as error:
        for problem in error.problems:
            complain(problem)
        sys.exit(EXIT_USAGE)
    except EXPECTED as error:
        complain(str(error))
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in {"lifeline", "stream", "store", "scorer"}:
            raise
        complain(f"this command needs {error.name}, which is not installed: {INSTALL.format(extra='all')}")
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
