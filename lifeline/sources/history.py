"""The demo's history: the real one in a checkout, and otherwise a generated one, which is the same in every run.

Your own history is a directory with three files, as `lifeline simulate` writes them: `actions.parquet`, with the
columns that `lifeline produce` reads, but ids instead of names; `items.npz`, with item_id uint64[m] and embedding
int8[m, 32]; and `vocabulary.json`.
"""

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import Vocabulary
from lifeline.sources import HISTORY_VARIABLE
from lifeline.sources.files import Source, SourceError, open_source
from lifeline.sources.generated import generate
from lifeline.sources.git import FILES_VOCABULARY
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item

ACTIONS_FILE = "rails-actions.csv.gz"
ITEMS_FILE = "rails-items.npz"
TABLE_FILE = "actions.parquet"
TABLE_ITEMS_FILE = "items.npz"
VOCABULARY_FILE = "vocabulary.json"
RAILS_HISTORY = Path(__file__).resolve().parents[2] / "examples" / "rails-history"
"""The real history. It is in a checkout, but not in an installed package."""


@dataclass(frozen=True, slots=True)
class ItemEmbeddings:
    """The embeddings of m items: item_id uint64[m] and embedding int8[m, 32]. An iteration yields `Item`s."""

    item_id: NDArray[np.uint64]
    embedding: NDArray[np.int8]
    version: int = 1

    def __len__(self) -> int:
        return len(self.item_id)

    def __iter__(self) -> Iterator[Item]:
        for item_id, row in zip(self.item_id.tolist(), self.embedding, strict=True):
            yield Item(item_id=item_id, embedding=row.tobytes(), embedding_version=self.version)

    def without_zeros(self) -> "ItemEmbeddings":
        """Return those that are not zeros: zeros have no direction, and stand for an item without an embedding."""
        rows = self.embedding.any(axis=1)
        return ItemEmbeddings(self.item_id[rows], self.embedding[rows], self.version)


@dataclass(frozen=True, slots=True)
class History:
    """n actions in order of arrival, the embeddings of their items, and their vocabulary.

    `user_id` has n strings; the other columns are timestamp_ms int64[n], item_id uint64[n], action_type uint8[n] and
    surface uint8[n]. It includes late and repeated events, and items without an embedding.
    """

    name: str
    description: str
    user_id: list[str]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    action_type: NDArray[np.uint8]
    surface: NDArray[np.uint8]
    embeddings: ItemEmbeddings
    vocabulary: Vocabulary

    def __len__(self) -> int:
        return len(self.user_id)

    def source(self) -> Source:
        """Return the actions as a source, in order of arrival."""
        return Source(self.name, len(self), self._actions)

    def longest_users(self, count: int) -> list[str]:
        """Return the `count` users with the most actions, the longest history first."""
        users, rows = np.unique(np.array(self.user_id), return_counts=True)
        return [str(user) for user in users[np.argsort(-rows, kind="stable")[:count]]]

    def _actions(self) -> Iterator[Action]:
        columns = (self.timestamp_ms, self.item_id, self.action_type, self.surface)
        for user_id, timestamp_ms, item_id, action_type, surface in zip(
            self.user_id, *(column.tolist() for column in columns), strict=True
        ):
            yield Action(
                user_id=user_id,
                item_id=item_id,
                timestamp_ms=timestamp_ms,
                action_type=action_type,
                surface=surface,
            )


def demo_history(directory: Path | None = None) -> History:
    """Return the history of `directory`, else of LIFELINE_HISTORY, else the checkout's real one, else a generated one.

    Its description says which one it is. Raises SourceError when a named directory does not have the files.
    """
    if directory is None and (path := os.environ.get(HISTORY_VARIABLE)):
        directory = Path(path)
    if directory is None:
        return read_history(RAILS_HISTORY) if _is_complete(RAILS_HISTORY) else generated_history()
    if _is_complete(directory):
        return read_history(directory)
    if all((directory / name).is_file() for name in (TABLE_FILE, TABLE_ITEMS_FILE, VOCABULARY_FILE)):
        return read_table(directory)
    raise SourceError(
        f"{directory} does not hold {ACTIONS_FILE} and {ITEMS_FILE}, nor {TABLE_FILE}, {TABLE_ITEMS_FILE} and "
        f"{VOCABULARY_FILE}: name a directory that does, or unset {HISTORY_VARIABLE}"
    )


def read_history(directory: Path) -> History:
    """Read the history of rails' files from `directory`; raises SourceError."""
    path = directory / ACTIONS_FILE
    user_id: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    for action in open_source(path, FILES_VOCABULARY):
        user_id.append(action.user_id)
        rows.append((action.timestamp_ms, action.item_id, action.action_type, action.surface))
    timestamp_ms, item_id, action_type, surface = zip(*rows, strict=True) if rows else ((), (), (), ())
    return History(
        name="rails",
        description=f"the history of rails' files: {_sizes(user_id, item_id)}, from {path}",
        user_id=user_id,
        timestamp_ms=np.array(timestamp_ms, np.int64),
        item_id=np.array(item_id, np.uint64),
        action_type=np.array(action_type, np.uint8),
        surface=np.array(surface, np.uint8),
        embeddings=read_items(directory / ITEMS_FILE).without_zeros(),
        vocabulary=FILES_VOCABULARY,
    )


def read_table(directory: Path) -> History:
    """Read your own history from `directory`, in the order of its timestamps; raises SourceError."""
    import pyarrow as pa  # noqa: PLC0415 - a bare install has no pyarrow
    from pyarrow import parquet  # noqa: PLC0415

    try:
        vocabulary = Vocabulary.model_validate_json((directory / VOCABULARY_FILE).read_text())
        table = parquet.read_table(directory / TABLE_FILE).sort_by("timestamp_ms")
        user_id = table.column("user_id").to_pylist()
        timestamp_ms, item_id, action_type, surface = (
            table.column(name).to_numpy().astype(dtype)
            for name, dtype in zip(
                ("timestamp_ms", "item_id", "action_type", "surface"),
                (np.int64, np.uint64, np.uint8, np.uint8),
                strict=True,
            )
        )
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise SourceError(f"{directory} cannot be read ({error}): create it with `lifeline simulate`") from error
    return History(
        name=directory.name,
        description=f"your own history: {_sizes(user_id, item_id.tolist())}, from {directory}",
        user_id=user_id,
        timestamp_ms=timestamp_ms,
        item_id=item_id,
        action_type=action_type,
        surface=surface,
        embeddings=read_items(directory / TABLE_ITEMS_FILE).without_zeros(),
        vocabulary=vocabulary,
    )


def read_items(path: Path) -> ItemEmbeddings:
    """Read the embeddings from an .npz file; raises SourceError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            item_id, embedding = arrays["item_id"], arrays["embedding"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} cannot be read ({error}): fetch or create it again") from None
    if item_id.dtype != np.uint64 or embedding.dtype != np.int8 or embedding.shape != (len(item_id), EMBEDDING_DIM):
        raise SourceError(
            f"{path} holds {item_id.dtype}{item_id.shape} and {embedding.dtype}{embedding.shape}: create it "
            f"again with item_id uint64[m] and embedding int8[m, {EMBEDDING_DIM}]"
        )
    return ItemEmbeddings(item_id, embedding)


def generated_history() -> History:
    """Return the generated history, the same in every run."""
    generated = generate()
    return History(
        name="generated",
        description=(
            f"a generated history: {_sizes(generated.user_id, generated.item_id.tolist())} "
            f"(a checkout has a real one, and {HISTORY_VARIABLE} names the directory of another)"
        ),
        user_id=generated.user_id,
        timestamp_ms=generated.timestamp_ms,
        item_id=generated.item_id,
        action_type=generated.action_type,
        surface=generated.surface,
        embeddings=ItemEmbeddings(generated.embedded_item_id, generated.embedding),
        vocabulary=generated.vocabulary,
    )


def _is_complete(directory: Path) -> bool:
    return (directory / ACTIONS_FILE).is_file() and (directory / ITEMS_FILE).is_file()


def _sizes(user_id: Sequence[str], item_id: Sequence[int]) -> str:
    return f"{len(user_id):,} actions of {len(set(user_id)):,} users on {len(set(item_id)):,} items"
