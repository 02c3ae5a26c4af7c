"""A store to look into: one user with every part of the layout, two small ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lifeline.core.actions import Kind
from lifeline.store import keys
from lifeline.store.inspection.inspectable_partition import InspectablePartition
from lifeline.store.memory import SharedMemory
from lifeline.store.settings import StoreSettings
from tests.support.factories import BOB, Event, Model, batch_of, open_store, tiny

SHAPE = tiny(max_explicit=40, max_impressions=20)
ANN = keys.sequence_prefix(b"ann", Kind.EXPLICIT)


def filled(path: Path, shape: StoreSettings = SHAPE, *, events: int = 45, partition: int = 0) -> Model:
    """Build a closed store; ann has trimmed events, chunks, a segment and an inline event."""
    store, model = open_store(path, shape, partition=partition), Model(shape)
    ann = [Event(b"ann", 100 * at, at % 3, 257) for at in range(events)]
    for offset, batch in enumerate([ann, BOB, [Event(b"cy", 5, 1, 257)], [Event(b"ann", 100 * events, 1, 258)]]):
        model.apply(batch)
        store.apply(batch_of(batch), offset=offset)
    store.close()
    return model


@contextmanager
def inspected(path: Path, *, partition: int = 0) -> Iterator[InspectablePartition]:
    """Open a store to look into it."""
    store = InspectablePartition.open(path, partition=partition, memory=SharedMemory(SHAPE))
    try:
        yield store
    finally:
        store.close()
