"""`lifeline get`, `score` and `explain`: queries of users to a node."""

from typing import TYPE_CHECKING, Annotated

import typer

from lifeline.cli.options import AddressOption, ConfigOption, JsonOption, TimeoutOption, load_config
from lifeline.cli.output import Output

if TYPE_CHECKING:
    from lifeline.client import LifelineError
    from lifeline.core.actions import Kind
    from lifeline.core.sequence import UserSequences
    from lifeline.core.vocabulary import Vocabulary


def _user_id(text: str) -> str:
    from lifeline.core.user_ids import InvalidUserIdError, encode_user_id

    try:
        encode_user_id(text)
    except InvalidUserIdError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _user_ids(texts: list[str]) -> list[str]:
    return [_user_id(text) for text in texts]


UserArgument = Annotated[str, typer.Argument(help="user id", callback=_user_id)]
_MinOffsetOption = Annotated[
    int | None, typer.Option(help="wait until the node has applied this offset", show_default=False)
]


def get(
    users: Annotated[list[str], typer.Argument(metavar="USER...", help="user ids", callback=_user_ids)],
    newest: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="number of newest events; 0 for all")] = 20,
    kind: Annotated[str, typer.Option(help="explicit or impression")] = "explicit",
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="also print the items' embeddings; needs --json or --jsonl")
    ] = False,
    min_offset: _MinOffsetOption = None,
    timeout: TimeoutOption = 5.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
    as_lines: Annotated[bool, typer.Option("--jsonl", help="print a line of JSON for each user, as it comes")] = False,
) -> None:
    """Print the newest events of a user, or of several.

    With several users --json prints a list. A user who cannot be read does not stop the others: the error is printed to
    stderr, and is the user's "error" in JSON, with its gRPC status ("code") and "reason". The exit code is then 1.
    """
    from lifeline.client import LifelineError
    from lifeline.core.actions import Kind
    from lifeline.core.sequence import Column, SequenceQuery
    from lifeline.ops.node_client import node_client

    if kind.upper() not in Kind.__members__:
        raise typer.BadParameter(f"{kind!r} is not a kind: use explicit or impression")
    if as_json and as_lines:
        raise typer.BadParameter("give one of --json and --jsonl")
    if min_offset is not None and len(users) > 1:
        raise typer.BadParameter("--min-offset is an offset in one user's partition: name one user")
    event_kind = Kind[kind.upper()]
    settings = load_config(config, node__grpc_address=address).settings
    query = SequenceQuery(
        kinds=(event_kind,), newest=newest or None, columns=Column.ALL if embeddings else Column.EVENT
    )
    answers = _Answers(Output(as_json=as_json), event_kind, settings.vocabulary, as_lines=as_lines)
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        for user in users:
            try:
                answers.add(user, client.get_sequence(user, query, min_offset=min_offset))
            except LifelineError as error:
                if len(users) == 1 and not as_lines:
                    raise
                answers.fail(user, error)
    answers.end(is_list=len(users) > 1)


class _Answers:
    """Prints the sequences of users: each as it comes, or all as one document at the end."""

    def __init__(self, output: Output, kind: "Kind", vocabulary: "Vocabulary", *, as_lines: bool) -> None:
        self._output, self._kind, self._vocabulary, self._as_lines = output, kind, vocabulary, as_lines
        self._documents: list[dict[str, object]] = []
        self._shown = 0
        self._has_failed = False

    def add(self, user: str, reply: "UserSequences") -> None:
        from lifeline.cli.sequences import sequence_json, sequence_table

        if self._as_lines or self._output.as_json:
            self._put(sequence_json(user, self._kind, reply, self._vocabulary))
            return
        self._output.print(*([""] if self._shown else []), sequence_table(user, self._kind, reply, self._vocabulary))
        self._shown += 1
        if not reply.sequences[self._kind].stored:
            self._output.print("no such user, or no events of this kind; user ids are case-sensitive")

    def fail(self, user: str, error: "LifelineError") -> None:
        self._has_failed = True
        self._output.error(f"user {user!r}: {error}")
        if self._as_lines or self._output.as_json:
            self._put(
                {
                    "user": user,
                    "kind": self._kind.name.lower(),
                    "error": error.message,
                    "code": error.code.name,
                    "reason": error.reason,
                }
            )

    def end(self, *, is_list: bool) -> None:
        """Print what was not printed as it came. Raises typer.Exit if a user could not be read."""
        if self._output.as_json:
            documents = self._documents
            self._output.show(text=list, document=lambda: documents if is_list else documents[0])
        if self._has_failed:
            raise typer.Exit(1)

    def _put(self, document: dict[str, object]) -> None:
        if self._as_lines:
            self._output.line(document)
        else:
            self._documents.append(document)


def score(
    user: UserArgument,
    candidates: Annotated[list[int], typer.Argument(metavar="ITEM...", min=0, max=2**64 - 1, help="item ids")],
    explain: Annotated[bool, typer.Option("--explain", help="also print the selected tokens")] = False,
    min_offset: _MinOffsetOption = None,
    timeout: TimeoutOption = 10.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score items for a user, with the current history."""
    from lifeline.cli.scores import scores_json, scores_table, tokens_table
    from lifeline.ops.node_client import node_client

    settings = load_config(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        reply = client.score(user, candidates, min_offset=min_offset, explain=0 if explain else None)
    explained = range(len(reply.item_id)) if explain else ()
    Output(as_json=as_json).show(
        text=lambda: [
            scores_table(user, reply),
            *(tokens_table(reply, row, settings.vocabulary) for row in explained),
        ],
        document=lambda: scores_json(reply, settings.vocabulary),
    )


def explain(
    user: UserArgument,
    item: Annotated[int, typer.Argument(metavar="ITEM", min=0, max=2**64 - 1, help="an item id")],
    tokens: Annotated[int, typer.Option(min=0, help="number of tokens whose contribution to compute")] = 16,
    min_offset: _MinOffsetOption = None,
    timeout: TimeoutOption = 10.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain the score of an item for a user.

    It prints the tokens that were selected for the item, and how the score would change without each of them.
    """
    from lifeline.cli.scores import contributions_table, scores_json, scores_table, tokens_table
    from lifeline.ops.node_client import node_client

    settings = load_config(config, node__grpc_address=address).settings
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        reply = client.score(user, [item], min_offset=min_offset, explain=tokens)
    Output(as_json=as_json).show(
        text=lambda: [
            scores_table(user, reply),
            tokens_table(reply, 0, settings.vocabulary, most=4),
            *([contributions_table(reply, 0, settings.vocabulary)] if tokens else []),
        ],
        document=lambda: scores_json(reply, settings.vocabulary),
    )
