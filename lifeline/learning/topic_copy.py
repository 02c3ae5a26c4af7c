"""A copy of the topics to train on, where no node's directory is at hand.

The directory is that of a replay, with the items' embeddings beside the partitions. Each call resumes where the last
ended, so a copy that is kept only costs what has been published since.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from lifeline.config import Settings
from lifeline.core.topics import topic_id
from lifeline.ops.item_table import open_item_table
from lifeline.ops.replay import plan_replay, run_replay
from lifeline.store.data_lock import private_files
from lifeline.stream.items import ItemFollower

_STOP_S = 10.0


def update_topic_copy(
    settings: Settings, into: Path, *, processes: int, flags: Sequence[str], progress: Callable[[int, int], None]
) -> None:
    """Apply everything that the topics hold now.

    `flags` give processes the settings of this one; `progress` gets the records applied, and their total.
    Raises ReplayError, StoreError, StreamError.
    """
    plans = plan_replay(settings, into)
    starts = {plan.partition: plan.start for plan in plans}
    done = dict.fromkeys(starts, 0)

    def applied(partition: int, offset: int) -> None:
        done[partition] = offset + 1 - starts[partition]
        progress(sum(done.values()), sum(plan.records for plan in plans))

    run_replay(settings, into, plans, processes=processes, flags=flags, progress=applied)
    with private_files():
        asyncio.run(_follow_items(settings, into))


async def _follow_items(settings: Settings, into: Path) -> None:
    """Read the items topic up to its present end."""
    kafka = settings.kafka
    table = open_item_table(into, kafka, await asyncio.to_thread(topic_id, kafka, kafka.items_topic))
    follower = ItemFollower(kafka, table)
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
