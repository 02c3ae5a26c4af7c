"""What stays of an erased user in a partition's files: ids of items, where the page says, and nothing else."""

import struct
from pathlib import Path

from lifeline.store import keys
from tests.support.disk import contents
from tests.support.factories import HOUR_MS, Event, batch_of, open_store, tiny

SHAPE = tiny(max_explicit=60, chunk_events=8, inline_events=4, max_explicit_age_days=9)
USER = b"somebody-with-a-long-name@example.org"
SINCE = 480_000 * HOUR_MS


def test_only_ids_of_items_stay_and_only_in_the_item_table(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    items = [0xDECADE_0000_0000 + number for number in range(50)]
    for offset in range(5):
        history = [Event(USER, SINCE + 7_919 * item % 3_000_000, item, 257) for item in items[offset * 10 :][:10]]
        others = [Event(b"bob", SINCE + HOUR_MS + offset, 7, 257), Event(b"zoe", SINCE + 1, 8, 257)]
        store.apply(batch_of([*history, *others]), offset=offset)
    assert store.erase(USER, offset=5) == 50
    assert store.wait_scrubbed(60)
    store.close()

    def holds(data: bytes) -> bool:
        ids = (struct.pack(order, item) for item in items for order in ("<Q", ">Q"))
        times = (struct.pack(order, SINCE + 7_919 * item % 3_000_000) for item in items for order in ("<q", ">q"))
        return USER in data or any(needle in data for needle in (*ids, *times))

    found = {
        (family, key)
        for family in ("rows", "chunks", "meta")
        for key, data in contents(tmp_path, family).items()
        if holds(key + data)
    }
    assert found
    assert {(family, key[:1]) for family, key in found} == {("meta", keys.ITEMS_PREFIX)}
    assert not any(USER in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
