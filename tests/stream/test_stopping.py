import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from lifeline.stream.stopping import end_within


async def cancelled() -> None:
    raise asyncio.CancelledError


async def fails(error: Exception) -> None:
    raise error


def test_cancellations_and_a_cluster_that_is_away_stay_inside() -> None:
    async def run() -> None:
        assert await end_within(cancelled(), 5)
        assert await end_within(fails(KafkaConnectionError()), 5)
        with pytest.raises(ValueError, match="bug"):
            await end_within(fails(ValueError("bug")), 5)

    asyncio.run(run())


def test_what_does_not_end_is_cancelled_and_our_own_cancellation_passes() -> None:
    async def run() -> None:
        assert not await end_within(asyncio.Event().wait(), 0)
        ours = asyncio.create_task(end_within(asyncio.Event().wait(), 60))
        await asyncio.sleep(0)
        ours.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ours

    asyncio.run(run())
