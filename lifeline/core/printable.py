"""Text of others on a terminal or in a log: nothing in it is obeyed there, and no line of it passes for one of ours."""


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with what is not printable escaped as in Python's own literals, but for the characters of `keep`.

    That is what a terminal would obey (ESC and the other control characters), what starts another line, what hides or
    reorders its neighbours (Unicode's format characters), and lone surrogates, which cannot be encoded. Backslashes
    stay as they are: this is for people to read, and not to be read back.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
