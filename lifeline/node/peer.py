"""Calls to another node of the group."""

import asyncio
from collections.abc import Mapping, Sequence

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.errors import SecurityError
from lifeline.core.reasons import Reason
from lifeline.core.security import CallSecurity, SecuritySettings
from lifeline.stream.fingerprint_log import Fingerprint

_TIMEOUT_S = 3.0


async def ask_owner(
    address: str, partitions: Sequence[int], security: SecuritySettings
) -> Mapping[int, Sequence[Fingerprint]]:
    """Return the fingerprints of the node at `address`, for those of the partitions that it has.

    Raises ConnectionError if the node cannot be reached, or must not get this node's token.
    """

    def ask() -> dict[int, list[Fingerprint]]:
        fingerprints = {}
        calls = CallSecurity.between_nodes(security)
        if calls.token is not None and not calls.trusts(address):
            raise SecurityError(f"security.peer_token may not go to {address}: set security.ca to the CA of the nodes")
        with LifelineClient(address, timeout_s=_TIMEOUT_S, security=calls, follow=False) as client:
            for number in partitions:
                try:
                    fingerprints[number] = [Fingerprint(*item) for item in client.list_fingerprints(number)]
                except LifelineError as error:
                    if error.reason != Reason.NOT_OWNER:
                        raise
        return fingerprints

    try:
        return await asyncio.to_thread(ask)
    except LifelineError as error:
        raise ConnectionError(f"{error}: no action needed, the call is repeated") from error
    except SecurityError as error:
        raise ConnectionError(str(error)) from error
