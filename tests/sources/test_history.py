import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lifeline.core.actions import Kind
from lifeline.sources import history as history_module
from lifeline.sources.files import SourceError
from lifeline.sources.history import ACTIONS_FILE, ITEMS_FILE, History, demo_history, generated_history
from lifeline.store.settings import StoreSettings

HEADER = "user_id,item_id,timestamp_ms,action_type,surface\n"


@pytest.fixture(scope="module")
def generated() -> History:
    return generated_history()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variable and the checkout's history."""
    monkeypatch.delenv("LIFELINE_HISTORY", raising=False)
    monkeypatch.setattr(history_module, "RAILS_HISTORY", tmp_path / "nothing")


def _directory(path: Path, rows: str = "ann,3,10,add,dir02\nbob,4,9,delete,dir15\n") -> Path:
    path.mkdir(exist_ok=True)
    (path / ACTIONS_FILE).write_bytes(gzip.compress((HEADER + rows).encode()))
    # Zeros stand for an item without an embedding, and producers refuse them.
    embedding = np.array([[-7] * 32, [0] * 32], np.int8)
    np.savez(path / ITEMS_FILE, item_id=np.array([3, 4], np.uint64), embedding=embedding)
    return path


def test_the_generated_history_has_what_the_demo_needs(generated: History) -> None:
    explicit = generated.vocabulary.kind_of_type[generated.action_type] == Kind.EXPLICIT
    longest = generated.longest_users(1)[0]
    identities = {
        (t, i, a, s)
        for user, e, t, i, a, s in zip(
            generated.user_id,
            explicit.tolist(),
            generated.timestamp_ms.tolist(),
            generated.item_id.tolist(),
            generated.action_type.tolist(),
            generated.surface.tolist(),
            strict=True,
        )
        if user == longest and e
    }
    assert len(identities) == 20_000 > StoreSettings().max_explicit
    assert 190_000 < len(generated) < 210_000
    assert len(set(generated.user_id)) == 2_000
    known = np.isin(generated.item_id, generated.embeddings.item_id)
    assert 0.02 < 1 - known.mean() < 0.3
    assert set(np.unique(generated.action_type).tolist()) == set(generated.vocabulary.action_type_names)
    assert set(np.unique(generated.surface).tolist()) == set(generated.vocabulary.surface_names)


def test_some_of_the_generated_history_is_late_and_some_is_repeated(generated: History) -> None:
    late = generated.timestamp_ms < np.maximum.accumulate(generated.timestamp_ms) - 3_600_000
    assert 0.02 < late.mean() < 0.2
    rows = Counter(
        zip(generated.user_id, generated.timestamp_ms.tolist(), generated.item_id.tolist(),
            generated.action_type.tolist(), generated.surface.tolist(), strict=True)
    )  # fmt: skip
    assert 1_000 < sum(count - 1 for count in rows.values()) < 4_000


def test_embeddings_are_int8_and_show_the_clusters(generated: History) -> None:
    assert generated.embeddings.embedding.dtype == np.int8
    assert generated.embeddings.embedding.shape == (len(generated.embeddings.item_id), 32)
    assert generated.embeddings.embedding.min() >= -127
    # What one visit touches is alike: more so than two items taken at random.
    unit = generated.embeddings.embedding / np.linalg.norm(generated.embeddings.embedding, axis=1, keepdims=True)
    place = {item: at for at, item in enumerate(generated.embeddings.item_id.tolist())}
    user = generated.longest_users(2)[1]
    rows = np.flatnonzero(np.array(generated.user_id) == user)
    rows = rows[np.argsort(generated.timestamp_ms[rows])]
    pairs = [(place[a], place[b]) for a, b in pairwise(generated.item_id[rows].tolist()) if a in place and b in place]
    left, right = np.array(pairs).T
    assert (unit[left] * unit[right]).sum(1).mean() > 0.3
    assert abs((unit[left] * unit[::-1][right]).sum(1).mean()) < 0.2


def test_the_generated_history_is_the_same_every_time(generated: History) -> None:
    again = generated_history()
    assert again.user_id == generated.user_id
    for column in ("timestamp_ms", "item_id", "action_type", "surface"):
        np.testing.assert_array_equal(getattr(again, column), getattr(generated, column))
    assert list(again.embeddings) == list(generated.embeddings)


def test_actions_and_items_say_what_the_columns_say(generated: History) -> None:
    source = generated.source()
    assert source.total == len(generated)
    action = next(iter(source))
    assert action.user_id == generated.user_id[0]
    assert (action.timestamp_ms, action.item_id) == (generated.timestamp_ms[0], generated.item_id[0])
    assert (action.action_type, action.surface) == (generated.action_type[0], generated.surface[0])
    items = list(generated.embeddings)
    assert len(items) == len(generated.embeddings)
    assert items[-1].item_id == generated.embeddings.item_id[-1]
    assert items[-1].embedding == generated.embeddings.embedding[-1].tobytes()


def test_without_files_the_history_is_generated_and_says_so(generated: History) -> None:
    found = demo_history()
    assert found.name == "generated"
    assert "generated" in found.description
    assert f"{len(generated):,} actions of 2,000 users" in found.description


@pytest.mark.parametrize("by", ["argument", "variable", "checkout"])
def test_a_directory_with_the_files_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    directory = _directory(tmp_path / "data")
    if by == "variable":
        monkeypatch.setenv("LIFELINE_HISTORY", str(directory))
    if by == "checkout":
        monkeypatch.setattr(history_module, "RAILS_HISTORY", directory)
    found = demo_history(directory if by == "argument" else None)
    assert found.name == "rails"
    assert "2 actions of 2 users on 2 items" in found.description
    assert str(directory) in found.description
    assert found.user_id == ["ann", "bob"]
    assert found.timestamp_ms.tolist() == [10, 9]
    assert found.item_id.tolist() == [3, 4]
    assert found.action_type.tolist() == [1, 3]
    assert found.surface.tolist() == [3, 16]
    assert found.embeddings.item_id.tolist() == [3]
    assert found.embeddings.embedding.tolist() == [[-7] * 32]


def test_a_directory_that_was_asked_for_must_hold_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="does not hold"):
        demo_history(tmp_path)
    monkeypatch.setenv("LIFELINE_HISTORY", str(tmp_path))
    with pytest.raises(SourceError, match="name a directory that does, or unset LIFELINE_HISTORY"):
        demo_history()


def test_broken_items_are_an_error(tmp_path: Path) -> None:
    directory = _directory(tmp_path / "data")
    np.savez(directory / ITEMS_FILE, item_id=np.array([3], np.uint64), embedding=np.zeros((1, 16), np.int8))
    with pytest.raises(SourceError, match=r"embedding int8\[m, 32\]"):
        demo_history(directory)
    np.savez(directory / ITEMS_FILE, item_id=np.array([3], np.uint64))
    with pytest.raises(SourceError, match="cannot be read"):
        demo_history(directory)
    (directory / ITEMS_FILE).write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        demo_history(directory)


def test_a_history_may_be_empty(tmp_path: Path) -> None:
    found = demo_history(_directory(tmp_path / "data", rows=""))
    assert len(found) == 0
    assert list(found.source()) == []
    assert found.longest_users(3) == []
