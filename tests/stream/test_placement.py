import math
from collections import Counter

from hypothesis import assume, given
from hypothesis import strategies as st

from lifeline.stream.placement import LocalPartition, Member, Place, place


@st.composite
def groups(draw: st.DrawFn) -> tuple[dict[str, Member], int]:
    partitions = draw(st.integers(0, 12))
    local = st.dictionaries(
        st.integers(0, 14), st.builds(LocalPartition, st.integers(0, 1_000), st.booleans()), max_size=12
    )
    count = draw(st.integers(1, 5))
    return {f"m{number}": Member(f"host{number}:1", draw(local)) for number in range(count)}, partitions


def after(members: dict[str, Member], places: dict[int, Place], applied: int = 500) -> dict[str, Member]:
    """What the members say once they have worked as they were told."""
    return {
        name: Member(
            member.address,
            {
                number: LocalPartition(applied, owned=where.owner == name)
                for number, where in places.items()
                if name == where.owner or name in where.standbys
            },
        )
        for name, member in members.items()
    }


@given(groups(), st.integers(0, 3))
def test_each_partition_has_one_owner_and_the_shares_are_even(
    group: tuple[dict[str, Member], int], replicas: int
) -> None:
    members, partitions = group
    places = place(members, range(partitions), replicas)
    assert list(places) == list(range(partitions))
    owned = Counter(where.owner for where in places.values())
    counts = [owned[name] for name in members]
    assert max(counts) - min(counts) <= 1
    for where in places.values():
        assert where.owner not in where.standbys
        assert len(set(where.standbys)) == len(where.standbys) == min(replicas, len(members) - 1)
        assert set(where.standbys) <= members.keys()


@given(groups(), st.integers(0, 3))
def test_the_same_group_gives_the_same_places_in_whatever_order(
    group: tuple[dict[str, Member], int], replicas: int
) -> None:
    members, partitions = group
    again = dict(reversed(members.items()))
    assert place(members, range(partitions), replicas) == place(again, range(partitions), replicas)


@given(groups(), st.integers(0, 3))
def test_nothing_moves_while_nobody_comes_or_goes(group: tuple[dict[str, Member], int], replicas: int) -> None:
    members, partitions = group
    places = place(members, range(partitions), replicas)
    again = place(after(members, places), range(partitions), replicas)
    assert {number: where.owner for number, where in again.items()} == {
        number: where.owner for number, where in places.items()
    }
    assert {number: set(where.standbys) for number, where in again.items()} == {
        number: set(where.standbys) for number, where in places.items()
    }


@given(groups(), st.integers(0, 3), st.data())
def test_when_one_goes_only_its_partitions_move_and_to_their_standbys_where_shares_allow(
    group: tuple[dict[str, Member], int], replicas: int, data: st.DataObject
) -> None:
    members, partitions = group
    assume(len(members) > 1)
    places = place(members, range(partitions), replicas)
    gone = data.draw(st.sampled_from(sorted(members)))
    left = {name: member for name, member in after(members, places).items() if name != gone}
    moved = place(left, range(partitions), replicas)
    owned = Counter(where.owner for where in moved.values())
    for number, where in places.items():
        if where.owner != gone:
            assert moved[number].owner == where.owner
        elif where.standbys and moved[number].owner not in where.standbys:
            # Whoever followed it owns as much as anybody may.
            assert all(owned[name] >= partitions // len(left) for name in where.standbys)


@given(groups(), st.data())
def test_when_one_comes_no_more_move_than_its_share(group: tuple[dict[str, Member], int], data: st.DataObject) -> None:
    members, partitions = group
    places = place(members, range(partitions), 0)
    come = data.draw(st.sampled_from(["a", "z"]))
    more = {**after(members, places), come: Member("new:1", {})}
    moved = place(more, range(partitions), 0)
    changed = [number for number, where in moved.items() if where.owner != places[number].owner]
    assert all(moved[number].owner == come for number in changed)
    assert len(changed) <= math.ceil(partitions / len(more))


def test_the_most_advanced_store_wins() -> None:
    members = {
        "a": Member("a:1", {0: LocalPartition(10, owned=False)}),
        "b": Member("b:1", {0: LocalPartition(99, owned=False)}),
        "c": Member("c:1", {}),
    }
    assert place(members, range(1), 1) == {0: Place("b", ("a",))}


def test_of_two_who_claim_a_partition_the_one_that_is_further_has_it() -> None:
    members = {
        "back from a long pause": Member("a:1", {0: LocalPartition(10, owned=True), 1: LocalPartition(10, owned=True)}),
        "took over": Member("b:1", {0: LocalPartition(20, owned=True), 1: LocalPartition(20, owned=True)}),
    }
    places = place(members, range(2), 0)
    assert sorted(where.owner for where in places.values()) == ["back from a long pause", "took over"]
    assert place({**members, "took over": members["took over"]}, range(1), 0)[0].owner == "took over"


def test_balance_takes_from_who_has_most_what_another_has_nearly() -> None:
    owner = {number: LocalPartition(1_000, owned=True) for number in range(4)}
    near = {2: LocalPartition(999, owned=False), 3: LocalPartition(5, owned=False)}
    places = place({"old": Member("o:1", owner), "new": Member("n:1", near)}, range(4), 0)
    assert places[2].owner == "new"
    assert Counter(where.owner for where in places.values()) == {"old": 2, "new": 2}
