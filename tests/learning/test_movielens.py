"""MovieLens-100K: read from the file that `make movielens` gets, and asked of as a task."""

from pathlib import Path

import numpy as np
import pytest

from lifeline.core.embedding_codec import normalize
from lifeline.learning.evaluation_tasks import evaluation_settings, ratings_task
from lifeline.learning.movielens import FILE, read_movielens
from lifeline.scorer.variants import variant
from lifeline.sources.files import SourceError

HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def ratings(tmp_path: Path) -> Path:
    """Write the ratings of 30 users of two tastes, a minute apart, each user's spread over all the time."""
    rng = np.random.default_rng(0)
    lines = []
    for at in range(6_000):
        user = int(rng.integers(30))
        film = int(rng.integers(60)) + 60 * (user % 2)
        lines.append(f"{user}\t{film}\t{1 + at % 5}\t{880_000_000 + 60 * at}\n")
    path = tmp_path / "ratings.inter"
    path.write_text(HEADER + "".join(rng.permutation(np.array(lines))))
    return path


def test_ratings_come_by_time_and_their_value_is_the_action(tmp_path: Path) -> None:
    path = tmp_path / "ratings.inter"
    path.write_text(HEADER + "7\t12\t5\t300\n7\t13\t3\t100\n9\t12\t2\t200\n")
    history = read_movielens(path)
    assert history.user_id == ["7", "9", "7"]
    assert history.item_id.tolist() == [13, 12, 12]
    assert history.timestamp_ms.tolist() == [100_000, 200_000, 300_000]
    names = {action.id: name for name, action in history.vocabulary.action_types.items()}
    assert [names[number] for number in history.action_type.tolist()] == ["rated", "disliked", "liked"]


def test_films_of_one_taste_lie_close_together(tmp_path: Path) -> None:
    embeddings = read_movielens(ratings(tmp_path)).embeddings
    vector = normalize(embeddings.embedding)
    of_first = embeddings.item_id < 60
    cosine = vector @ vector.T
    same = of_first[:, None] == of_first[None, :]
    assert cosine[same].mean() > cosine[~same].mean() + 0.05


def test_a_request_is_for_the_next_rating(tmp_path: Path) -> None:
    history = read_movielens(ratings(tmp_path))
    settings = evaluation_settings(50, max_validated=50, max_held_out=100)
    task = ratings_task(history, settings)
    splits = task.splits(variant("none", task.heads))
    for part in splits:
        # A minute lies between two ratings, and each is a request of its own.
        positives = np.add.reduceat((part.action_types != 0).astype(int), part.pair_from[:-1])
        assert (positives == 1).all()
    assert splits.training.timestamp_ms.max() < splits.test.timestamp_ms.min()
    assert splits.training.timestamp_ms.min() >= history.timestamp_ms[int(0.7 * len(history))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("user\titem\n1\t2\n", "user_id:token"),
        (HEADER, "holds no rating"),
        (HEADER + "1\t2\n", ""),
    ],
)
def test_a_missing_or_another_file_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "ratings.inter"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SourceError, match=rf"ratings.inter .*{message}.*`make movielens` gets them"):
        read_movielens(path)


@pytest.mark.skipif(not FILE.exists(), reason="`make movielens` has not been run")
def test_the_real_ratings() -> None:
    history = read_movielens()
    assert len(history) == 100_000
    assert len(set(history.user_id)) == 943
    assert len(set(history.item_id.tolist())) == 1_682
    assert 1_000 < len(history.embeddings) < 1_682
    # Nearest to Cinderella are Dumbo, Snow White and Pinocchio.
    place = {item: row for row, item in enumerate(history.embeddings.item_id.tolist())}
    vector = normalize(history.embeddings.embedding)
    nearest = np.argsort(-(vector @ vector[place[418]]))[:8]
    assert {501, 99, 404} <= set(history.embeddings.item_id[nearest].tolist())
