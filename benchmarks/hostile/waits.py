"""Waits: reads that demand offsets which nobody will ever publish, without a deadline or with a long one."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.hostile.child import Control
from benchmarks.hostile.target import Target, hostile_user
from lifeline.v1 import sequence_pb2
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub

CONNECTIONS: Final = 4
CALLS: Final = 300
"""At once, on all connections together: more than twice what a node takes at once."""
FAR: Final = (1 << 63) - 1
NEAR: Final = 1_000_000
"""So far behind the log's end: it looks as if it might come, and does not within the time."""
LONG_S: Final = 3_600.0
_AGAIN_S: Final = 6.0
"""At most, and at random: those that are refused come again a hundred times a second, and not in waves."""


def hold_reads(target: Target, control: Control) -> Counter[str]:
    """Wait until the end; return how many calls were refused, by status."""
    done: Counter[str] = Counter()
    asyncio.run(_waits(target, control, done))
    return done


async def _waits(target: Target, control: Control, done: Counter[str]) -> None:
    # Another option each: channels of the same options would share one connection.
    channels = [
        grpc.aio.insecure_channel(target.grpc_address, [("lifeline.connection", number)])
        for number in range(CONNECTIONS)
    ]
    stubs: list[Any] = [SequenceServiceStub(channel) for channel in channels]
    control.begin()
    tasks = [asyncio.create_task(_wait(stubs[number % CONNECTIONS], number, done)) for number in range(CALLS)]
    await asyncio.to_thread(control.wait)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close(None)


async def _wait(stub: Any, number: int, done: Counter[str]) -> None:  # noqa: ANN401 - generic in its stubs alone
    """Wait again whenever the node ends the wait."""
    user = hostile_user(number)
    while True:
        try:
            min_offset = FAR
            if number % 2:
                now = await stub.GetSequence(sequence_pb2.GetSequenceRequest(user_id=user, newest=1), timeout=5)
                min_offset = now.as_of.applied_offset + NEAR
            request = sequence_pb2.GetSequenceRequest(user_id=user, min_offset=min_offset)
            await stub.GetSequence(request, timeout=LONG_S if number % 3 else None)
        except grpc.aio.AioRpcError as error:
            done[error.code().name] += 1
            await asyncio.sleep(random.uniform(0, _AGAIN_S))
