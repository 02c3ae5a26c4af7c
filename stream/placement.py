"""Decides which member of the group owns each partition, and which members follow it.

The group's leader decides for all, from the descriptions of all members. `place` is a pure function, so that tests can
check its properties. The rules, the first one being the strongest:

1. Every partition has one owner, and the numbers of partitions of any two members differ by at most one.
2. A partition stays with its present owner if rule 1 allows it.
3. Otherwise it goes to the member with the most advanced store of it, which has the fewest records to catch up.
4. Without a store, rendezvous hashing selects the member, so that the same members give the same placement.

A partition's standbys are selected in the same way, and its owner is never one of them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import xxhash

_MAX_LOAD_DIFFERENCE = 2
"""The allowed difference of two members in the number of load partitions: each move costs a catch-up."""


class LocalPartition(NamedTuple):
    """A member's store of a partition."""

    applied_offset: int
    """The last applied offset; 0 when the store has not been opened yet."""
    owned: bool
    """Whether the member is the partition's owner now."""


class Member(NamedTuple):
    """A member's description of itself."""

    address: str
    """The host:port at which other members reach it."""
    partitions: Mapping[int, LocalPartition]
    """Its stores, by partition."""


class Place(NamedTuple):
    """The owner and the standbys of one partition, as member ids."""

    owner: str
    standbys: tuple[str, ...]
    """In order of preference for a takeover."""


class Placement(NamedTuple):
    """Owners and standbys of every partition, and the partitions that one member follows."""

    owners: Mapping[int, str]
    """By partition the address of its owner."""
    standbys: Mapping[int, tuple[str, ...]]
    """By partition the addresses of its standbys."""
    follow: frozenset[int]
    """The partitions that this member follows."""


NO_PLACEMENT = Placement({}, {}, frozenset())
"""The placement before the first assignment."""


def place(members: Mapping[str, Member], partitions: Iterable[int], standby_replicas: int) -> dict[int, Place]:
    """Return the place of every partition on `members` (by member id, at least one).

    A partition has `standby_replicas` standbys, or one for each other member if there are too few members.
    """
    numbers = sorted(partitions)
    owners = _Owners(members, numbers).choose()
    standbys = _standbys(members, owners, min(standby_replicas, len(members) - 1))
    return {number: Place(owners[number], standbys[number]) for number in numbers}


class _Owners:
    """Selects the owners; it has the state of the selection."""

    def __init__(self, members: Mapping[str, Member], partitions: list[int]) -> None:
        self._members, self._partitions = members, partitions
        self._share, self._spare = divmod(len(partitions), len(members))
        """The number of partitions that each member owns at least, and the number of members that own one more."""
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
            for number, local in node.partitions.items()
            if number in known
        ]
        for _, _, number, member in sorted(stores, reverse=True):
            if number not in self._owner:
                self._take(number, member)
        for number in self._partitions:
            if number not in self._owner:
                free = [member for member in self._members if self._has_room(member)]
                self._take(
                    number, max(free, key=lambda member: (_weight(self._members[member].address, number), member))
                )
        return self._owner

    def _claims(self) -> list[tuple[str, list[int]]]:
        """Return the partitions that each member owns now.

        The partitions with the greatest advantage come first, so that the member keeps them; members with the most
        partitions come first, so that they get the shares of one more.
        """
        claims: dict[str, list[int]] = {member: [] for member in self._members}
        for number in self._partitions:
            owners = [
                (local.applied_offset, member)
                for member, node in self._members.items()
                if (local := node.partitions.get(number)) is not None and local.owned
            ]
            if owners:
                # A member that was believed dead may return and still claim a partition; its new owner is further.
                claims[max(owners)[1]].append(number)
        for member, claimed in claims.items():
            claimed.sort(key=lambda number: (self._advantage(member, number), -number), reverse=True)
        return sorted(claims.items(), key=lambda claim: (-len(claim[1]), claim[0]))

    def _advantage(self, member: str, number: int) -> int:
        """Return by how many offsets the member's store is ahead of all others: the cost of a move."""
        others = (
            node.partitions[number].applied_offset
            for other, node in self._members.items()
            if other != member and number in node.partitions
        )
        return self._members[member].partitions[number].applied_offset - max(others, default=-1)

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
    selected: dict[int, list[str]] = {number: [] for number in sorted(owners)}
    load: Counter[str] = Counter(dict.fromkeys(sorted(members), 0))
    stores = [
        (local.applied_offset, _weight(node.address, number), number, member)
        for member, node in members.items()
        for number, local in node.partitions.items()
        if owners.get(number, member) != member
    ]
    for _, _, number, member in sorted(stores, reverse=True):
        if len(selected[number]) < replicas:
            selected[number].append(member)
            load[member] += 1
    for number, standbys in selected.items():
        while len(standbys) < replicas:
            free = [member for member in members if member != owners[number] and member not in standbys]
            best = min(free, key=lambda member: (load[member], _weight(members[member].address, number), member))
            standbys.append(best)
            load[best] += 1
    while _even_out(selected, load, owners):
        pass
    # Members with a store were selected first, the most advanced before the others.
    return {number: tuple(standbys) for number, standbys in selected.items()}


def _even_out(selected: dict[int, list[str]], load: Counter[str], owners: Mapping[int, str]) -> bool:
    """Move one standby from a member with a high load to one with a low load; False when the loads are even."""
    by_load = [member for member, _ in load.most_common()]
    for source in by_load:
        for target in reversed(by_load):
            if load[source] - load[target] <= _MAX_LOAD_DIFFERENCE:
                break
            for number, standbys in selected.items():
                if source in standbys and target not in {owners[number], *standbys}:
                    standbys.remove(source)
                    standbys.append(target)
                    load[source] -= 1
                    load[target] += 1
                    return True
    return False


def _weight(address: str, partition: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{address} {partition}".encode())
