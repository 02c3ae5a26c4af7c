"""Waits: reads with a `min_offset` that is never reached, without a deadline or with a long one."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.hostile.child import Control
from benchmarks.hostile.target import Target, hostile_user
from lifeline.core.security import DIRECT
from lifeline.v1 import sequence_pb2
from lifeline.v1.sequence_pb2_grpc import SequenceServiceStub

CONNECTIONS: Final = 4
CALLS: Final = 300
"""Concurrent calls on all connections: more than twice the limit of a node."""
FAR: Final = (1 << 63) - 1
NEAR: Final = 1_000_000
"""Distance from the log's end: plausible, but not reached in time."""
LONG_S: Final = 3_600.0
_RETRY_S: Final = 6.0
"""The greatest random delay of a retry: together the refused calls retry a hundred times per second, evenly."""


def hold_reads(target: Target, control: Control) -> Counter[str]:
    """Wait until the end; return the number of failed calls by status."""
    done: Counter[str] = Counter()
    asyncio.run(_waits(target, control, done))
    return done


async def _waits(target: Target, control: Control, done: Counter[str]) -> None:
    # Different options, because channels with the same options share one connection.
    channels = [
        grpc.aio.insecure_channel(target.grpc_address, [*DIRECT, ("lifeline.connection", number)])
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
    """Repeat a waiting read whenever the node ends it."""
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
            await asyncio.sleep(random.uniform(0, _RETRY_S))
