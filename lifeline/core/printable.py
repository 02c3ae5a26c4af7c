"""Untrusted text on a terminal or in a log: it cannot contain control sequences, or fake a log line."""

import shlex


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with unprintable characters escaped as in Python literals; characters in `keep` stay.

    Escaped are control characters such as ESC, line breaks, Unicode's format characters, which hide or reorder their
    neighbours, and lone surrogates, which cannot be encoded. Backslashes are not escaped: the result is for people to
    read, and cannot be converted back.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def shell_words(text: str) -> str:
    r"""Return `text` as positional argument of a command line to copy, on one line; nothing but such may follow it.

    Text that is not printable is quoted as ``$'\x1b'``, which bash, ksh and zsh read.
    """
    word = shlex.quote(text) if text.isprintable() else f"$'{''.join(map(_escaped_for_shell, text))}'"
    return f"-- {word}" if text.startswith("-") else word


def _escaped_for_shell(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors="surrogateescape"))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
