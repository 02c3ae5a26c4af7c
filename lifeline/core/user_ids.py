"""User ids: 1 to 256 bytes of UTF-8. The same bytes are the key of the user's records in the log."""

MAX_USER_ID_BYTES = 256


class InvalidUserIdError(ValueError):
    """The text is not a valid user id. The message says what is valid, without naming the field."""


def encode_user_id(user_id: str) -> bytes:
    """Return a user id as bytes; raises InvalidUserIdError unless it is 1 to 256 bytes of UTF-8."""
    try:
        key = user_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidUserIdError("it contains half a surrogate pair: give text that UTF-8 can encode") from error
    if not 1 <= len(key) <= MAX_USER_ID_BYTES:
        raise InvalidUserIdError(f"it has {len(key)} bytes: give 1 to {MAX_USER_ID_BYTES} bytes of UTF-8")
    return key


def is_user_id(key: bytes) -> bool:
    """Return whether the bytes are a valid user id."""
    if not 1 <= len(key) <= MAX_USER_ID_BYTES:
        return False
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
