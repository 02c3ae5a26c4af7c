import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifeline.core.actions import Kind
from lifeline.core.sequence import SequenceQuery
from lifeline.rpc.directory import PartitionDirectory
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import CatchingUpError, NotOwnerError
from lifeline.store.partition import PartitionStore
from tests.support.factories import Event, batch_of, open_store, tiny


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[PartitionStore]]:
    opened = [open_store(tmp_path / str(number), tiny(), partition=number) for number in range(3)]
    for number, store in enumerate(opened):
        store.apply(batch_of([Event(str(number).encode(), number, 1, 257)]), offset=number)
    yield opened
    for store in opened:
        store.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[PartitionDirectory]:
    table = EmbeddingTable.open(tmp_path / "items")
    yield PartitionDirectory(lambda key: len(key) if len(key) > 1 else int(key), table)
    table.close()


def test_a_user_is_read_where_the_partitioner_says(directory: PartitionDirectory, stores: list[PartitionStore]) -> None:
    for store in reversed(stores):
        directory.add(store)
    assert [store.partition for store in directory] == [0, 1, 2]
    assert len(directory) == 3
    for user in ("0", "1", "2"):
        reader = directory.for_user(user)
        assert reader.store is stores[int(user)]
        as_of, sequences = reader.read(user, SequenceQuery())
        assert as_of.partition == int(user)
        assert sequences[Kind.EXPLICIT].length == 1
    # The partitioner gets the key of the record: UTF-8.
    assert directory.for_user("é").store is stores[2]


def test_a_partition_that_is_not_here_has_another_owner(
    directory: PartitionDirectory, stores: list[PartitionStore]
) -> None:
    with pytest.raises(NotOwnerError, match="partition 1: ask the node that does") as caught:
        directory.for_user("1")
    assert caught.value.partition == 1
    directory.add(stores[1])
    assert directory.for_user("1").store is stores[1]
    directory.remove(1)
    directory.remove(1)
    with pytest.raises(NotOwnerError):
        directory.for_user("1")
    assert list(directory) == []


def test_an_announced_partition_is_here_and_not_served_until_it_is_added(
    directory: PartitionDirectory, stores: list[PartitionStore]
) -> None:
    directory.announce(0)
    with pytest.raises(CatchingUpError, match=r"partition 0 is catching up .* retry"):
        directory.for_user("0")
    assert len(directory) == 0
    directory.add(stores[0])
    assert directory.for_user("0").store is stores[0]
    directory.remove(0)
    directory.announce(0)
    directory.remove(0)
    with pytest.raises(NotOwnerError):
        directory.for_user("0")


def test_a_reader_outlives_its_removal(directory: PartitionDirectory, stores: list[PartitionStore]) -> None:
    directory.add(stores[1])
    reader = directory.for_user("1")
    directory.remove(1)
    assert reader.read("1", SequenceQuery()).sequences[Kind.EXPLICIT].length == 1


def test_one_partition_may_come_back_in_another_store(
    directory: PartitionDirectory, stores: list[PartitionStore], tmp_path: Path
) -> None:
    directory.add(stores[1])
    again = open_store(tmp_path / "again", tiny(), partition=1)
    directory.add(again)
    assert list(directory) == [again]
    again.close()


def test_threads_may_add_and_remove_while_others_look(
    directory: PartitionDirectory, stores: list[PartitionStore]
) -> None:
    directory.add(stores[0])

    def turn(store: PartitionStore) -> None:
        for _ in range(200):
            directory.add(store)
            directory.remove(store.partition)

    threads = [threading.Thread(target=turn, args=(store,)) for store in stores[1:]]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert directory.for_user("0").store is stores[0]
        assert next(iter(directory)) is stores[0]
    assert len(directory) == 1
