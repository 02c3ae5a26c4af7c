"""What the columns read is what the library reads; what they leave to it costs time alone."""

from hypothesis import example, given
from hypothesis import strategies as st

from lifeline.stream.action_codec import parse_actions
from lifeline.v1.action_pb2 import Action

ASCII = st.text(st.characters(max_codepoint=127), max_size=300)
ACTIONS = st.builds(
    Action,
    user_id=st.one_of(ASCII, st.text(max_size=20)),
    item_id=st.integers(0, (1 << 64) - 1),
    timestamp_ms=st.one_of(st.integers(0, 1 << 45), st.integers(-(1 << 63), (1 << 63) - 1)),
    action_type=st.one_of(st.integers(0, 100), st.integers(0, (1 << 32) - 1)),
    surface=st.one_of(st.integers(0, 300), st.integers(0, (1 << 32) - 1)),
    event_id=st.one_of(st.none(), ASCII, st.text(max_size=5)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A value with bytes changed, cut off, put in or put twice: much of it is valid protobuf still."""
    value = bytearray(draw(ACTIONS).SerializeToString())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        match draw(st.integers(0, 3)):
            case 0:
                del value[at:]
            case 1:
                value[at:at] = draw(st.binary(max_size=4))
            case 2:
                value[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 3:
                value += value[at:]
    return bytes(value)


VALUES = st.one_of(ACTIONS.map(Action.SerializeToString), damaged(), st.binary(max_size=40))


@given(st.lists(st.tuples(st.booleans(), ASCII, VALUES), min_size=1, max_size=30))
# Numbers in more bytes than they need, fields that say what is the default anyway, the same field twice.
@example([(True, "", bytes.fromhex("0a8100611100000000000000001880002081002880 00".replace(" ", "")))])
@example([(True, "", bytes.fromhex("0a01611801180220"))])
@example([(True, "", bytes.fromhex("0a01610a0162"))])
@example([(False, "b", bytes.fromhex("0a0161"))])
@example([(True, "", b""), (False, "", b"\x0a"), (False, "a", b"\x0a\xff")])
def test_what_is_read_is_what_the_library_reads(given_rows: list[tuple[bool, str, bytes]]) -> None:
    keys, values = [], []
    for own, other, value in given_rows:
        key = other
        if own:
            try:
                key = Action.FromString(value).user_id
            except Exception:  # noqa: BLE001 - no action: any key will do
                key = other
        keys.append(key.encode())
        values.append(value)
    columns = parse_actions(keys, values)
    for at in range(len(values)):
        if not columns.is_parsed[at]:
            continue
        action = Action.FromString(values[at])
        assert action.user_id.encode() == keys[at] != b""
        assert columns.item_id[at] == action.item_id
        assert columns.timestamp_ms[at] == action.timestamp_ms
        assert columns.action_type[at] == action.action_type
        assert columns.surface[at] == action.surface


@given(
    st.lists(
        st.builds(
            Action,
            user_id=st.text(st.characters(max_codepoint=127), min_size=1, max_size=256),
            item_id=st.integers(0, (1 << 64) - 1),
            timestamp_ms=st.integers(0, (1 << 63) - 1),
            action_type=st.integers(0, (1 << 14) - 1),
            surface=st.integers(0, (1 << 14) - 1),
            event_id=st.one_of(st.none(), ASCII),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_producers_write_is_left_to_the_library_for_no_row(actions: list[Action]) -> None:
    columns = parse_actions(
        [action.user_id.encode() for action in actions], [action.SerializeToString() for action in actions]
    )
    assert columns.is_parsed.all()
    assert columns.item_id.tolist() == [action.item_id for action in actions]
    assert columns.timestamp_ms.tolist() == [action.timestamp_ms for action in actions]


def test_a_user_id_that_is_not_the_key_is_left_to_the_library() -> None:
    value = Action(user_id="ann", item_id=1, timestamp_ms=5, action_type=1).SerializeToString()
    columns = parse_actions([b"ann", b"bob", b"an", b"anna", b""], [value] * 5)
    assert columns.is_parsed.tolist() == [True, False, False, False, False]
