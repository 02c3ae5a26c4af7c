"""Another node of the group, asked for what only nodes ask each other."""

import asyncio
from collections.abc import Sequence

from lifeline.client import LifelineClient, LifelineError
from stream.fingerprint_log import Fingerprint

_TIMEOUT_S = 3.0


async def ask_owner(address: str, partition: int) -> Sequence[Fingerprint]:
    """Return the fingerprints that the node at `address` has of a partition; raises ConnectionError."""

    def ask() -> list[tuple[int, int]]:
        with LifelineClient(address, timeout_s=_TIMEOUT_S) as client:
            return client.list_fingerprints(partition)

    try:
        return [Fingerprint(*each) for each in await asyncio.to_thread(ask)]
    except LifelineError as error:
        raise ConnectionError(f"{error}: nothing to do, it is asked again") from error
