"""`lifeline produce` and `lifeline erase`: what the command line publishes to Kafka."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.options import BootstrapOption, ConfigOption, JsonOption, load_config
from lifeline.cli.output import Output, Table
from lifeline.cli.read import UserArgument
from lifeline.core.printable import shell_words

if TYPE_CHECKING:
    from lifeline.core.vocabulary import Vocabulary
    from lifeline.sources.files import Source
    from lifeline.sources.history import ItemEmbeddings

_ERASE_TIMEOUT_S = 30


def produce(
    source: Annotated[
        Path | None, typer.Argument(help="a CSV, JSON Lines (both also .gz) or Parquet file", show_default=False)
    ] = None,
    git: Annotated[
        Path | None,
        typer.Option(
            "--git",
            metavar="REPO",
            help="publish the history of a git repository; user ids are hashed e-mail addresses",
            show_default=False,
        ),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="publish the demo's history with its embeddings")] = False,
    items: Annotated[
        Path | None,
        typer.Option(
            help="embeddings to publish first: .npz with item_id uint64[n] and embedding int8[n, 32]",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish actions to Kafka from one source.

    An acknowledged action is in Kafka. If a node cannot apply it, the node puts it into the dead-letter topic.
    """
    from lifeline.ops.publish import publish
    from lifeline.sources.history import read_items

    output = Output(as_json=as_json)
    if sum((source is not None, git is not None, history)) != 1:
        output.error("name one source: a file, --git REPO or --history")
        raise typer.Exit(2)
    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings
    embeddings = read_items(items) if items else None
    if source is not None:
        from lifeline.sources.files import open_source

        actions = open_source(source, settings.vocabulary)
    elif git is not None:
        actions, embeddings = _git(git, settings.vocabulary, embeddings, output)
    else:
        actions, embeddings = _history(settings.vocabulary, embeddings, output)
    with output.progress() as bar:
        published = publish(settings.kafka, actions, embeddings or (), settings.vocabulary, bar)
    rate = published.actions / max(published.seconds, 1e-9)
    counts = f"{published.items:,} items and {published.actions:,} actions acknowledged"
    user = published.busiest_user
    output.show(
        text=lambda: [
            f"{counts} in {published.seconds:.1f} s ({rate:,.0f} actions/s)",
            *([f"the longest history: lifeline get {shell_words(user)}"] if user else []),
        ],
        document=published._asdict,
    )


def _git(
    repository: Path, vocabulary: "Vocabulary", embeddings: "ItemEmbeddings | None", output: Output
) -> "tuple[Source, ItemEmbeddings]":
    from lifeline.sources.git import git_source
    from lifeline.sources.random_projection import project

    actions = git_source(repository, vocabulary)
    if embeddings is None:
        output.note("embeddings: a random projection of which files change together")
        embeddings = project(actions)
    return actions, embeddings


def _history(
    vocabulary: "Vocabulary", embeddings: "ItemEmbeddings | None", output: Output
) -> "tuple[Source, ItemEmbeddings]":
    from lifeline.sources.files import SourceError
    from lifeline.sources.git import FILES_VOCABULARY_FILE
    from lifeline.sources.history import demo_history

    history = demo_history()
    output.note(history.description)
    if history.vocabulary != vocabulary:
        raise SourceError(
            f"the history {history.name} has another vocabulary than the configuration, so nodes would reject its "
            f"actions as dead letters: use --config {FILES_VOCABULARY_FILE} here and for the node"
        )
    return history.source(), embeddings or history.embeddings


def erase(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase a user from every node and every replay.

    It publishes a null value for the user's key, and prints where data of the user may remain, and until when. Actions
    that are published later, by a slow producer or from an old file, start a new history of the user.
    """
    from lifeline.ops.residual_data import residual_copies
    from lifeline.producer.producer import LifelineProducer

    settings = load_config(config, kafka__bootstrap_servers=bootstrap_servers).settings
    if not yes:
        typer.confirm(f"Erase every event of {user!r}? This cannot be undone.", abort=True)
    with LifelineProducer(settings.kafka) as producer:
        delivery = producer.erase(user)
        producer.flush(_ERASE_TIMEOUT_S)
        record = delivery.result(_ERASE_TIMEOUT_S)
    remaining = residual_copies(settings)
    Output(as_json=as_json).show(
        text=lambda: [
            f"erasure of {user!r} acknowledged: partition {record.partition}, offset {record.offset}",
            Table("Not erased by it", ("where data of the user may remain", "until"), remaining),
        ],
        document=lambda: {
            "user": user,
            "partition": record.partition,
            "offset": record.offset,
            "leftovers": [copy._asdict() for copy in remaining],
        },
    )
