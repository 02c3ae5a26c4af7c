"""How scores and selected tokens are shown."""

from rich.table import Table

from lifeline.cli.console import age, table, when
from lifeline.client import Scores
from store.vocabulary import Vocabulary


def scores_table(user: str, answer: Scores, *, title: str | None = None) -> Table:
    """Return the candidates in the order of their scores, best first."""
    order = answer.score.argsort()[::-1].tolist()
    rows = [
        (
            place,
            int(answer.item_id[row]),
            f"{answer.score[row]:.4f}",
            *(f"{value:.4f}" for value in answer.probability[row].tolist()),
            "" if answer.embedding_known[row] else "no embedding",
        )
        for place, row in enumerate(order, start=1)
    ]
    heading = title or f"{user}: scores by {answer.model} {answer.model_version} (offset {answer.as_of.applied_offset})"
    columns = ("rank>", "item>", "score>", *(f"p({head})>" for head in answer.heads), "")
    return table(heading, columns, rows)


def tokens_table(answer: Scores, row: int, vocabulary: Vocabulary, *, most: int | None = None) -> Table:
    """Return the tokens selected for one candidate, the most similar first."""
    tokens = sorted(answer.selected[row], key=lambda token: -token.similarity)
    shown = tokens[:most]
    rows = [
        (
            token.source.name.lower().replace("_", " "),
            token.item_id,
            f"{token.similarity:+.3f}",
            "+".join(vocabulary.action_type_names.get(value, str(value)) for value in token.action_types),
            vocabulary.surface_names.get(token.surface, token.surface),
            when(token.timestamp_ms),
            age(token.age_ms),
        )
        for token in shown
    ]
    more = f", the {len(shown)} most similar" if len(shown) < len(tokens) else ""
    title = f"candidate {int(answer.item_id[row])}: {len(tokens)} tokens selected{more}"
    return table(title, ("source", "item>", "similarity>", "actions", "surface", "time (UTC)", "age>"), rows)


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
