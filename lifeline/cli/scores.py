"""How scores and selected tokens are shown."""

from itertools import groupby

from rich.console import Group

from lifeline.cli.console import age, table
from lifeline.client import Scores, SelectedToken
from lifeline.core.vocabulary import Vocabulary

_TOKEN = ("source", "item>", "similarity>", "actions", "surface", "age>")


def scores_table(user: str, answer: Scores, *, title: str | None = None) -> Group:
    """Return the candidates in the order of their scores, best first."""
    order = answer.score.argsort()[::-1].tolist()
    rows = [
        (
            place,
            int(answer.item_id[row]),
            f"{answer.score[row]:.4f}",
            *(f"{value:.4f}" for value in answer.probability[row].tolist()),
            *([] if answer.embedding_known.all() else ["" if answer.embedding_known[row] else "no embedding"]),
        )
        for place, row in enumerate(order, start=1)
    ]
    heading = title or f"{user}: score, and probability by head, by model {answer.model_version}"
    notes = () if answer.embedding_known.all() else ("",)
    columns = ("rank>", "item>", "score>", *(f"{head}>" for head in answer.heads), *notes)
    return table(heading, columns, rows)


def contributions_table(answer: Scores, row: int, vocabulary: Vocabulary) -> Group:
    """Return the tokens of one candidate whose contribution is told, the one that moves its score most first."""
    tokens = [token for token in answer.selected[row] if token.contribution is not None]
    tokens.sort(key=lambda token: -abs(token.contribution or 0.0))
    rows = [(f"{token.contribution:+.4f}", *_told(token, vocabulary)) for token in tokens]
    item = int(answer.item_id[row])
    title = f"what candidate {item} would lose without each of its {len(tokens)} most similar tokens"
    return table(title, ("score>", *_TOKEN), rows)


def tokens_table(answer: Scores, row: int, vocabulary: Vocabulary, *, most: int | None = None) -> Group:
    """Return the tokens selected for one candidate, by source, the most similar first; `most` of each source."""
    tokens = sorted(answer.selected[row], key=lambda token: (token.source, -token.similarity))
    shown = [token for _, same in groupby(tokens, lambda token: token.source) for token in list(same)[:most]]
    rows = [_told(token, vocabulary) for token in shown]
    more = f", the {most} most similar of each source" if len(shown) < len(tokens) else ""
    title = f"candidate {int(answer.item_id[row])}: {len(tokens)} tokens selected{more}"
    return table(title, _TOKEN, rows)


def _told(token: SelectedToken, vocabulary: Vocabulary) -> tuple[object, ...]:
    return (
        token.source.name.lower().replace("_", " "),
        token.item_id,
        f"{token.similarity:+.3f}",
        "+".join(vocabulary.action_type_names.get(value, str(value)) for value in token.action_types),
        vocabulary.surface_names.get(token.surface, token.surface),
        age(token.age_ms),
    )


def scores_json(answer: Scores, vocabulary: Vocabulary) -> dict[str, object]:
    """Return the answer in the order of the request."""
    return {
        "model": answer.model,
        "model_version": answer.model_version,
        "as_of": answer.as_of._asdict(),
        "heads": list(answer.heads),
        "scores": [
            {
                "item_id": int(answer.item_id[row]),
                "score": float(answer.score[row]),
                "probability": answer.probability[row].tolist(),
                "embedding_known": bool(answer.embedding_known[row]),
                "selected": [
                    {
                        **token._asdict(),
                        "source": token.source.name.lower(),
                        "action_types": [vocabulary.action_type_names.get(v, v) for v in token.action_types],
                    }
                    for token in answer.selected[row]
                ],
            }
            for row in range(len(answer.item_id))
        ],
    }
