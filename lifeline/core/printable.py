"""Untrusted text on a terminal or in a log: it cannot contain control sequences, or fake a log line."""


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with unprintable characters escaped as in Python literals; characters in `keep` stay.

    Escaped are control characters such as ESC, line breaks, Unicode's format characters, which hide or reorder their
    neighbours, and lone surrogates, which cannot be encoded. Backslashes are not escaped: the result is for people to
    read, and cannot be converted back.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
