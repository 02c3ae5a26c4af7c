"""Commands on data: produce, get, score, erase, verify."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from lifeline.cli.console import (
    AddressOption,
    BootstrapOption,
    ConfigOption,
    DataDirOption,
    JsonOption,
    age,
    complain,
    err,
    load,
    out,
    print_json,
    progress,
    table,
    when,
)
from lifeline.core.actions import MAX_USER_ID_BYTES, Kind
from lifeline.core.sequence import Column, SequenceQuery, UserSequences
from lifeline.core.vocabulary import Vocabulary
from lifeline.ops.node_client import node_client
from lifeline.sources.files import Source, SourceError, open_source

EXIT_DIFFERENT = 3


def _user_id(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not UTF-8: give the user id as text") from None
    if not 1 <= size <= MAX_USER_ID_BYTES:
        raise typer.BadParameter(f"it has {size} bytes: give 1 to {MAX_USER_ID_BYTES}")
    return text


UserArgument = Annotated[str, typer.Argument(help="user id", callback=_user_id)]


MinOffsetOption = Annotated[int | None, typer.Option(help="wait until this offset is applied", show_default=False)]


def produce(
    source: Annotated[
        Path | None, typer.Argument(help="CSV, JSON Lines (both also .gz) or Parquet", show_default=False)
    ] = None,
    git: Annotated[
        Path | None,
        typer.Option(
            "--git",
            metavar="REPO",
            help="the history of a git repository: users are hashed e-mails",
            show_default=False,
        ),
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="the demo's history, with its embeddings")] = False,
    items: Annotated[
        Path | None,
        typer.Option(
            help="embeddings to publish first: .npz with item_id u64[n], embedding int8[n,32]", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish actions to Kafka, from one source.

    All acknowledged means that Kafka has them: what a node cannot apply it puts into the dead letters.
    """
    from lifeline.ops.publish import publish
    from lifeline.sources.git import FILES_VOCABULARY_FILE
    from lifeline.sources.history import demo_history, read_items
    from lifeline.sources.random_projection import project

    if sum((source is not None, git is not None, history)) != 1:
        complain("name one source: a file, --git REPO or --history")
        raise typer.Exit(2)
    settings = load(config, kafka__bootstrap_servers=bootstrap_servers).settings
    embeddings = read_items(items) if items else None
    if history:
        made = demo_history()
        err.print(made.description, highlight=False)
        if made.vocabulary != settings.vocabulary:
            raise SourceError(
                f"the history {made.name} is told in another vocabulary than the configuration's, so nodes would take "
                f"its actions for dead letters: use --config {FILES_VOCABULARY_FILE} here and for the node"
            )
        actions, vocabulary = made.source(), made.vocabulary
        embeddings = embeddings or made.embeddings
    else:
        vocabulary = settings.vocabulary
        actions = open_source(source, vocabulary) if source else _git(git, vocabulary)
        if git and embeddings is None:
            err.print("embeddings: a random projection, from which files are touched together", highlight=False)
            embeddings = project(actions)
    with progress() as bar:
        published = publish(settings.kafka, actions, embeddings or (), vocabulary, bar)
    if as_json:
        print_json(published._asdict())
        return
    out.print(
        f"{published.items:,} items and {published.actions:,} actions acknowledged in {published.seconds:.1f} s "
        f"({published.actions / max(published.seconds, 1e-9):,.0f} actions/s)"
    )
    if published.busiest_user:
        out.print(f"the longest history: lifeline get {shlex.quote(published.busiest_user)}", highlight=False)


def get(
    user: UserArgument,
    newest: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="how many of the newest events; 0 for all")] = 20,
    kind: Annotated[str, typer.Option(help="explicit or impression")] = "explicit",
    embeddings: Annotated[bool, typer.Option("--embeddings", help="with the items' embeddings (JSON only)")] = False,
    min_offset: MinOffsetOption = None,
    timeout: Annotated[float, typer.Option(help="seconds")] = 5.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a user's newest events, as the node has them now."""
    settings = load(config, node__grpc_address=address).settings
    query = SequenceQuery(
        kinds=(_kind(kind),), newest=newest or None, columns=Column.ALL if embeddings else Column.EVENT
    )
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        answer = client.get_sequence(user, query, min_offset=min_offset)
    if as_json:
        print_json(_sequence_json(user, _kind(kind), answer, settings.vocabulary))
    else:
        out.print(sequence_table(user, _kind(kind), answer, settings.vocabulary))
        if not answer.sequences[_kind(kind)].stored:
            out.print("no such user, or nothing of this kind: user ids are told apart to the letter")


def explain(
    user: UserArgument,
    item: Annotated[int, typer.Argument(metavar="ITEM", min=0, max=2**64 - 1, help="an item id")],
    tokens: Annotated[int, typer.Option(min=0, help="of how many tokens to tell the contribution")] = 16,
    min_offset: MinOffsetOption = None,
    timeout: Annotated[float, typer.Option(help="seconds")] = 10.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why an item has its score: the tokens that were selected for it, and what it would lose without each."""
    from lifeline.cli.scores import contributions_table, scores_json, scores_table, tokens_table

    settings = load(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        answer = client.score(user, [item], min_offset=min_offset, explain=tokens)
    if as_json:
        print_json(scores_json(answer, settings.vocabulary))
        return
    out.print(scores_table(user, answer))
    out.print(tokens_table(answer, 0, settings.vocabulary, most=4))
    if tokens:
        out.print(contributions_table(answer, 0, settings.vocabulary))


def score(
    user: UserArgument,
    candidates: Annotated[list[int], typer.Argument(metavar="ITEM...", min=0, max=2**64 - 1, help="item ids")],
    explain: Annotated[bool, typer.Option("--explain", help="print the selected tokens too")] = False,
    min_offset: MinOffsetOption = None,
    timeout: Annotated[float, typer.Option(help="seconds")] = 10.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score items for a user on the history as it is now."""
    from lifeline.cli.scores import scores_json, scores_table, tokens_table

    settings = load(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        answer = client.score(user, candidates, min_offset=min_offset, explain=0 if explain else None)
    if as_json:
        print_json(scores_json(answer, settings.vocabulary))
        return
    out.print(scores_table(user, answer))
    if explain:
        for row in range(len(answer.item_id)):
            out.print(tokens_table(answer, row, settings.vocabulary))


def erase(
    user: UserArgument,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase a user: publish a null value for the key, which every node and every replay obeys.

    It prints which other places still hold the user's data, and until when. An action that is published later, by a
    producer that was behind or from an old file, brings the user back.
    """
    from lifeline.ops.leftovers import leftovers
    from lifeline.producer.producer import LifelineProducer

    settings = load(config, kafka__bootstrap_servers=bootstrap_servers).settings
    if not yes:
        typer.confirm(f"Erase every event of {user!r}? This cannot be undone.", abort=True)
    with LifelineProducer(settings.kafka) as producer:
        delivery = producer.erase(user)
        producer.flush(30)
        at = delivery.result(30)
    left = leftovers(settings)
    if as_json:
        places = [one._asdict() for one in left]
        print_json({"user": user, "partition": at.partition, "offset": at.offset, "leftovers": places})
    else:
        out.print(f"erasure of {user!r} acknowledged: partition {at.partition}, offset {at.offset}", highlight=False)
        out.print(table("What it does not reach", ("where data of the user may be", "until"), left))


def verify(
    source: Annotated[
        Path | None,
        typer.Argument(help="a file to compare the node's answers with; without: the log", show_default=False),
    ] = None,
    config: ConfigOption = None,
    bootstrap_servers: BootstrapOption = None,
    data_dir: DataDirOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the state: rebuild it aside from the log and compare fingerprints, or compare it with a file.

    Without a file, every partition of the data directory is rebuilt from the topic up to its applied offset; the
    node may be running. With a file, each user's sequence is computed in plain Python from the file's rows and
    compared with what the node answers; users that the file lacks are not looked for. Exit code 3 when anything
    differs.
    """
    from lifeline.ops.verify import verify_file, verify_log

    settings = load(
        config, kafka__bootstrap_servers=bootstrap_servers, node__data_dir=data_dir, node__grpc_address=address
    ).settings
    started = time.monotonic()
    with progress() as bar:
        report = (
            verify_file(settings, open_source(source, settings.vocabulary), bar)
            if source
            else verify_log(settings, bar)
        )
    if as_json:
        print_json(report.as_json())
    else:
        rows = [
            (
                one.name,
                one.as_of if one.as_of >= 0 else "-",
                f"{one.events:,}",
                # The start of a fingerprint is enough to the eye; --json has all of it.
                one.found[:16] if one.as_of >= 0 else one.found,
                "equal" if one.equal else "DIFFERENT",
            )
            for one in report.comparisons
        ]
        out.print(table(f"The state against {report.against}", ("", "offset>", "events>", "found", "result"), rows))
        out.print(f"{report.summary()} ({time.monotonic() - started:.1f} s)", highlight=False)
    if not report.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def sequence_table(user: str, kind: Kind, answer: UserSequences, vocabulary: Vocabulary) -> Group:
    """Return a table of a sequence, newest event first."""
    part = answer.sequences[kind]
    as_of = answer.as_of
    now_ms = int(time.time() * 1000)
    columns = (part.timestamp_ms, part.item_id, part.action_type, part.surface)
    rows = [
        (
            when(timestamp_ms),
            age(now_ms - timestamp_ms),
            item_id,
            vocabulary.action_type_names.get(action_type, action_type),
            vocabulary.surface_names.get(surface, surface),
        )
        for timestamp_ms, item_id, action_type, surface in zip(
            *(column.tolist()[::-1] for column in columns if column is not None), strict=True
        )
    ]
    title = (
        f"{user}: newest {part.length:,} of {part.stored:,} {kind.name.lower()} events "
        f"(partition {as_of.partition}, offset {as_of.applied_offset}"
        f"{f', {as_of.lag_records:,} records behind its log' if as_of.lag_records else ''})"
    )
    return table(title, ("time (UTC)", "age>", "item>", "action", "surface"), rows)


def _sequence_json(user: str, kind: Kind, answer: UserSequences, vocabulary: Vocabulary) -> dict[str, object]:
    part = answer.sequences[kind]
    columns = {
        "timestamp_ms": part.timestamp_ms,
        "item_id": part.item_id,
        "action_type": part.action_type,
        "surface": part.surface,
        "embedding": part.embedding,
    }
    names = {"action_type": vocabulary.action_type_names, "surface": vocabulary.surface_names}
    return {
        "user": user,
        "kind": kind.name.lower(),
        "as_of": answer.as_of._asdict(),
        "stored": part.stored,
        "length": part.length,
        **{
            name: [names[name].get(value, value) for value in column.tolist()] if name in names else column.tolist()
            for name, column in columns.items()
            if column is not None
        },
    }


def _kind(name: str) -> Kind:
    try:
        return Kind[name.upper()]
    except KeyError:
        raise typer.BadParameter(f"{name!r} is not a kind: use explicit or impression") from None


def _git(repository: Path | None, vocabulary: Vocabulary) -> Source:
    from lifeline.sources.git import git_source

    if repository is None:
        raise SourceError("no repository is named: use --git REPO")
    return git_source(repository, vocabulary)
