"""Scores and selected tokens as tables and as JSON."""

from itertools import groupby

from lifeline.cli.formats import duration
from lifeline.cli.output import Table
from lifeline.client import Scores, SelectedToken
from lifeline.core.vocabulary import Vocabulary

_TOKEN_COLUMNS = ("source", "item>", "similarity>", "actions", "surface", "age>")


def scores_table(user: str, reply: Scores, *, title: str | None = None) -> Table:
    """Return the candidates by score, highest first."""
    order = reply.score.argsort()[::-1].tolist()
    rows = [
        (
            rank,
            int(reply.item_id[row]),
            f"{reply.score[row]:.4f}",
            *(f"{value:.4f}" for value in reply.probability[row].tolist()),
            *([] if reply.embedding_known.all() else ["" if reply.embedding_known[row] else "no embedding"]),
        )
        for rank, row in enumerate(order, start=1)
    ]
    heading = title or f"{user}: score, and probability by head, by model {reply.model_version}"
    notes = () if reply.embedding_known.all() else ("",)
    columns = ("rank>", "item>", "score>", *(f"{head}>" for head in reply.heads), *notes)
    return Table(heading, columns, rows)


def contributions_table(reply: Scores, row: int, vocabulary: Vocabulary) -> Table:
    """Return the tokens of one candidate that have a contribution, the largest change of the score first."""
    tokens = [token for token in reply.selected[row] if token.contribution is not None]
    tokens.sort(key=lambda token: -abs(token.contribution or 0.0))
    rows = [(f"{token.contribution:+.4f}", *_token_cells(token, vocabulary)) for token in tokens]
    item = int(reply.item_id[row])
    title = f"candidate {item}: contribution to the score of each of its {len(tokens)} most similar tokens"
    return Table(title, ("score>", *_TOKEN_COLUMNS), rows)


def tokens_table(reply: Scores, row: int, vocabulary: Vocabulary, *, most: int | None = None) -> Table:
    """Return the tokens selected for one candidate, by source, most similar first; at most `most` of each source."""
    tokens = sorted(reply.selected[row], key=lambda token: (token.source, -token.similarity))
    shown = [token for _, same in groupby(tokens, lambda token: token.source) for token in list(same)[:most]]
    rows = [_token_cells(token, vocabulary) for token in shown]
    suffix = f", the {most} most similar of each source" if len(shown) < len(tokens) else ""
    title = f"candidate {int(reply.item_id[row])}: {len(tokens)} tokens selected{suffix}"
    return Table(title, _TOKEN_COLUMNS, rows)


def _token_cells(token: SelectedToken, vocabulary: Vocabulary) -> tuple[object, ...]:
    return (
        token.source.name.lower().replace("_", " "),
        token.item_id,
        f"{token.similarity:+.3f}",
        "+".join(vocabulary.action_type_names.get(value, str(value)) for value in token.action_types),
        vocabulary.surface_names.get(token.surface, token.surface),
        duration(token.age_ms),
    )


def scores_json(reply: Scores, vocabulary: Vocabulary) -> dict[str, object]:
    """Return the candidates in the order of the request."""
    return {
        "model": reply.model,
        "model_version": reply.model_version,
        "as_of": reply.as_of._asdict(),
        "heads": list(reply.heads),
        "scores": [
            {
                "item_id": int(reply.item_id[row]),
                "score": float(reply.score[row]),
                "probability": reply.probability[row].tolist(),
                "embedding_known": bool(reply.embedding_known[row]),
                "selected": [
                    {
                        **token._asdict(),
                        "source": token.source.name.lower(),
                        "action_types": [vocabulary.action_type_names.get(v, v) for v in token.action_types],
                    }
                    for token in reply.selected[row]
                ],
            }
            for row in range(len(reply.item_id))
        ],
    }
