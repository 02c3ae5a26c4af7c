"""Tokens and passwords as settings and files hold them: without a final line break, and fit for their protocol.

A value that comes from a mounted file usually ends in a line break. No message shows a value.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from lifeline.core.errors import SecurityError

_MAX_TOKEN_LENGTH = 4_096
_LINE_BREAKS = "\r\n"


def token_text(token: str) -> str:
    """Return a bearer token without white space at its ends; raises ValueError if no header can carry it."""
    text = token.strip()
    if not text:
        raise ValueError("it holds no token: write one from `lifeline token`")
    if len(text) > _MAX_TOKEN_LENGTH:
        raise ValueError(
            f"its token has {len(text):,} characters, more than {_MAX_TOKEN_LENGTH:,}: write one from `lifeline token`"
        )
    for number, char in enumerate(text, 1):
        if not "!" <= char <= "~":
            what = "white space" if char.isspace() else "a control character" if char.isascii() else "not ASCII"
            raise ValueError(
                f"character {number} of its token is {what}, which no header can carry: write exactly one token from "
                "`lifeline token`"
            )
    return text


def password_text(password: str) -> str:
    """Return a password without line breaks at its end; raises ValueError if it holds a null character."""
    if "\0" in password:
        raise ValueError("it holds a null character, which no login can carry: correct it")
    return password.rstrip(_LINE_BREAKS)


def _secret(check: Callable[[str], str]) -> Callable[[SecretStr | None], SecretStr | None]:
    """Return a validator of a secret; an empty one counts as absent."""

    def validate(value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else ""
        return SecretStr(check(text)) if text else None

    return validate


Token = Annotated[SecretStr | None, AfterValidator(_secret(token_text))]
"""The type of a setting that holds a bearer token."""
Password = Annotated[SecretStr | None, AfterValidator(_secret(password_text))]
"""The type of a setting that holds a password."""


class TokenFile:
    """A token in a file."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises SecurityError unless it contains one token."""
        self._path = path
        self._stamp, self._token = self._read()

    def read(self) -> str:
        """Return the current token; the previous one while the file cannot be read or holds no token."""
        try:
            if file_stamp(self._path) != self._stamp:
                self._stamp, self._token = self._read()
        except SecurityError:
            return self._token
        return self._token

    def _read(self) -> tuple[tuple[int, int, int], str]:
        stamp = file_stamp(self._path)
        try:
            return stamp, token_text(self._path.read_text("utf-8"))
        except OSError as error:
            raise SecurityError(
                f"{self._path} cannot be read ({error.strerror}): correct security.token_file"
            ) from error
        except UnicodeDecodeError:
            raise SecurityError(f"{self._path} is not text: write a token from `lifeline token` to it") from None
        except ValueError as error:
            raise SecurityError(f"security.token_file {self._path}: {error}") from None


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Return (modification time, size, inode) of a file; raises SecurityError if it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise SecurityError(f"{path} cannot be read ({error.strerror}): correct its setting in [security]") from error
    return status.st_mtime_ns, status.st_size, status.st_ino
