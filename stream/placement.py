"""Placement: which member of the group owns each partition, and which ones follow it.

Decided by the group's leader alone, from what every member says of itself; a pure function, so that it can be tested
by its properties. In this order:

1. Every partition has one owner, and the numbers that two members own differ by one at most.
2. The present owner keeps what balance allows.
3. What is free goes to the member whose own store of it is the most advanced: it has the least to catch up.
4. Else the member is chosen by rendezvous hashing, so that the same members give the same places.

A partition's standbys are chosen likewise, and never are its owner.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import xxhash

_UNEVEN = 2
"""By how many partitions two members may differ in what they follow: each move means a store to catch up."""


class LocalPartition(NamedTuple):
    """A store that a member has of a partition."""

    applied_offset: int
    """The last offset that is part of it; 0 when it has not been opened yet."""
    owned: bool
    """Whether the member is the partition's owner now."""


class Member(NamedTuple):
    """What a member says of itself."""

    address: str
    """host:port at which others reach it."""
    local: Mapping[int, LocalPartition]
    """By partition."""


class Place(NamedTuple):
    """Where one partition is, by member id."""

    owner: str
    standbys: tuple[str, ...]
    """In the order in which they would take over."""


class Placement(NamedTuple):
    """Owners and standbys of every partition, and what one member follows."""

    owners: Mapping[int, str]
    """Partition to the address of its owner."""
    standbys: Mapping[int, tuple[str, ...]]
    """Partition to the addresses of those that follow it."""
    follow: frozenset[int]
    """The partitions that this member follows."""


NOWHERE = Placement({}, {}, frozenset())
"""Before the first assignment."""


def place(members: Mapping[str, Member], partitions: Iterable[int], standby_replicas: int) -> dict[int, Place]:
    """Place every partition on the members (by member id, at least one), each with so many standbys.

    There are fewer standbys where there are not enough members.
    """
    numbers = sorted(partitions)
    owners = _Owners(members, numbers).choose()
    standbys = _standbys(members, owners, min(standby_replicas, len(members) - 1))
    return {number: Place(owners[number], standbys[number]) for number in numbers}


class _Owners:
    """The choice of owners under way."""

    def __init__(self, members: Mapping[str, Member], partitions: list[int]) -> None:
        self._members, self._partitions = members, partitions
        self._share, self._spare = divmod(len(partitions), len(members))
        """How many partitions each member owns at least, and how many members own one more."""
        self._owner: dict[int, str] = {}
        self._owned: Counter[str] = Counter()

    def choose(self) -> dict[int, str]:
        for member, claimed in self._claims():
            for partition in claimed:
                self._take(partition, member)
        known = set(self._partitions)
        stores = [
            (local.applied_offset, _weight(node.address, number), number, member)
            for member, node in self._members.items()
            for number, local in node.local.items()
            if number in known
        ]
        for _, _, number, member in sorted(stores, reverse=True):
            if number not in self._owner:
                self._take(number, member)
        for number in self._partitions:
            if number not in self._owner:
                free = [member for member in self._members if self._has_room(member)]
                self._take(number, max(free, key=lambda each: (_weight(self._members[each].address, number), each)))
        return self._owner

    def _claims(self) -> list[tuple[str, list[int]]]:
        """Return what each member owns now, dearest first; those with the most come first, for a share of one more."""
        claims: dict[str, list[int]] = {member: [] for member in self._members}
        for number in self._partitions:
            owners = [
                (local.applied_offset, member)
                for member, node in self._members.items()
                if (local := node.local.get(number)) is not None and local.owned
            ]
            if owners:
                # One that was thought dead comes back and still claims what another has got: the other is further.
                claims[max(owners)[1]].append(number)
        for member, claimed in claims.items():
            claimed.sort(key=lambda number: (self._advantage(member, number), -number), reverse=True)
        return sorted(claims.items(), key=lambda each: (-len(each[1]), each[0]))

    def _advantage(self, member: str, number: int) -> int:
        """Return how far the member's store is ahead of everybody else's: what a move would have to catch up."""
        others = (
            node.local[number].applied_offset
            for other, node in self._members.items()
            if other != member and number in node.local
        )
        return self._members[member].local[number].applied_offset - max(others, default=-1)

    def _has_room(self, member: str) -> bool:
        return self._owned[member] < self._share or (self._owned[member] == self._share and self._spare > 0)

    def _take(self, partition: int, member: str) -> None:
        if not self._has_room(member):
            return
        if self._owned[member] == self._share:
            self._spare -= 1
        self._owned[member] += 1
        self._owner[partition] = member


def _standbys(members: Mapping[str, Member], owners: Mapping[int, str], replicas: int) -> dict[int, tuple[str, ...]]:
    chosen: dict[int, list[str]] = {number: [] for number in sorted(owners)}
    followed: Counter[str] = Counter(dict.fromkeys(sorted(members), 0))
    stores = [
        (local.applied_offset, _weight(node.address, number), number, member)
        for member, node in members.items()
        for number, local in node.local.items()
        if owners.get(number, member) != member
    ]
    for _, _, number, member in sorted(stores, reverse=True):
        if len(chosen[number]) < replicas:
            chosen[number].append(member)
            followed[member] += 1
    for number, standbys in chosen.items():
        while len(standbys) < replicas:
            free = [member for member in members if member != owners[number] and member not in standbys]
            best = min(free, key=lambda each: (followed[each], _weight(members[each].address, number), each))
            standbys.append(best)
            followed[best] += 1
    while _even_out(chosen, followed, owners):
        pass
    # Those with a store were chosen first, the most advanced before the others.
    return {number: tuple(standbys) for number, standbys in chosen.items()}


def _even_out(chosen: dict[int, list[str]], followed: Counter[str], owners: Mapping[int, str]) -> bool:
    """Move a standby from a member that follows much more to one that follows less; False when loads are even."""
    by_load = [member for member, _ in followed.most_common()]
    for giver in by_load:
        for taker in reversed(by_load):
            if followed[giver] - followed[taker] <= _UNEVEN:
                break
            for number, standbys in chosen.items():
                if giver in standbys and taker not in {owners[number], *standbys}:
                    standbys.remove(giver)
                    standbys.append(taker)
                    followed[giver] -= 1
                    followed[taker] += 1
                    return True
    return False


def _weight(address: str, partition: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{address} {partition}".encode())
