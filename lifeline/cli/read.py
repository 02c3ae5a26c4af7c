"""`lifeline get`, `score` and `explain`: queries of one user to a node."""

from typing import Annotated

import typer

from lifeline.cli.options import AddressOption, ConfigOption, JsonOption, TimeoutOption, load_config
from lifeline.cli.output import Output


def _user_id(text: str) -> str:
    from lifeline.core.user_ids import InvalidUserIdError, encode_user_id

    try:
        encode_user_id(text)
    except InvalidUserIdError as error:
        raise typer.BadParameter(str(error)) from None
    return text


UserArgument = Annotated[str, typer.Argument(help="user id", callback=_user_id)]
_MinOffsetOption = Annotated[
    int | None, typer.Option(help="wait until the node has applied this offset", show_default=False)
]


def get(
    user: UserArgument,
    newest: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="number of newest events; 0 for all")] = 20,
    kind: Annotated[str, typer.Option(help="explicit or impression")] = "explicit",
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="also print the items' embeddings; needs --json")
    ] = False,
    min_offset: _MinOffsetOption = None,
    timeout: TimeoutOption = 5.0,
    config: ConfigOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the newest events of a user."""
    from lifeline.cli.sequences import sequence_json, sequence_table
    from lifeline.core.actions import Kind
    from lifeline.core.sequence import Column, SequenceQuery
    from lifeline.ops.node_client import node_client

    if kind.upper() not in Kind.__members__:
        raise typer.BadParameter(f"{kind!r} is not a kind: use explicit or impression")
    event_kind = Kind[kind.upper()]
    settings = load_config(config, node__grpc_address=address).settings
    query = SequenceQuery(
        kinds=(event_kind,), newest=newest or None, columns=Column.ALL if embeddings else Column.EVENT
    )
    with node_client(settings, timeout_s=timeout, retry=False) as client:
        reply = client.get_sequence(user, query, min_offset=min_offset)
    Output(as_json=as_json).show(
        text=lambda: [
            sequence_table(user, event_kind, reply, settings.vocabulary),
            *(
                []
                if reply.sequences[event_kind].stored
                else ["no such user, or no events of this kind; user ids are case-sensitive"]
            ),
        ],
        document=lambda: sequence_json(user, event_kind, reply, settings.vocabulary),
    )


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
