import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.user_ids import MAX_USER_ID_BYTES, InvalidUserIdError, encode_user_id, is_user_id


@pytest.mark.parametrize("user_id", ["u", "x" * 256, "é" * 128, "\x00", "😀" * 64])
def test_1_to_256_bytes_of_utf_8_are_a_user_id(user_id: str) -> None:
    assert encode_user_id(user_id) == user_id.encode()
    assert is_user_id(user_id.encode())


@pytest.mark.parametrize(("user_id", "size"), [("", 0), ("x" * 257, 257), ("é" * 129, 258)])
def test_other_lengths_are_refused(user_id: str, size: int) -> None:
    with pytest.raises(InvalidUserIdError, match=f"it has {size} bytes: give 1 to 256 bytes of UTF-8"):
        encode_user_id(user_id)
    assert not is_user_id(user_id.encode())


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InvalidUserIdError, match="give text that UTF-8 can encode"):
        encode_user_id("user\ud800")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_bytes_are_a_user_id_if_they_are_the_encoding_of_one(key: bytes) -> None:
    try:
        same = encode_user_id(key.decode()) == key
    except ValueError:
        same = False
    assert is_user_id(key) == same
    assert not same or len(key) <= MAX_USER_ID_BYTES
