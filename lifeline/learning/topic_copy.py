"""A copy of the topics to train on, where no node's directory is at hand.

The directory is a replay's, with the items' embeddings beside the partitions. The next call goes on from where it
stands, so a copy that is kept costs what has been published since.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from lifeline.config import Settings
from lifeline.core.paths import items_dir
from lifeline.ops.replay import plan, run
from lifeline.store.data_lock import private_files
from lifeline.store.embeddings import EmbeddingTable
from lifeline.stream.items import ItemFollower

_STOP_S = 10.0


def bring_up(
    settings: Settings, into: Path, *, processes: int, flags: Sequence[str], progress: Callable[[int, int], None]
) -> None:
    """Apply what the topics hold by now.

    `flags` give processes the settings of this one; `progress` gets the records applied, and how many there are.
    Raises ReplayError, StoreError, StreamError.
    """
    plans = plan(settings, into)
    starts = {one.partition: one.start for one in plans}
    done = dict.fromkeys(starts, 0)

    def applied(partition: int, offset: int) -> None:
        done[partition] = offset + 1 - starts[partition]
        progress(sum(done.values()), sum(one.records for one in plans))

    run(settings, into, plans, processes=processes, flags=flags, progress=applied)
    with private_files():
        asyncio.run(_follow_items(settings, into))


async def _follow_items(settings: Settings, into: Path) -> None:
    """Bring the embeddings up to where the items topic ends now."""
    table = EmbeddingTable.open(items_dir(into))
    follower = ItemFollower(settings.kafka, table)
    try:
        await follower.start()
        ended = asyncio.create_task(follower.wait())
        caught_up = asyncio.create_task(follower.caught_up.wait())
        await asyncio.wait((ended, caught_up), return_when=asyncio.FIRST_COMPLETED)
        caught_up.cancel()
        if ended.done():
            ended.result()
        ended.cancel()
        await asyncio.gather(ended, caught_up, return_exceptions=True)
        table.sync()
    finally:
        await follower.stop(_STOP_S)
        table.close()
