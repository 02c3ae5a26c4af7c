"""Directories for files that can be made again: the user's cache, and temporary directories.

A container may run as a user without a home: as an arbitrary id, without HOME and without an entry in passwd, or with
a home that cannot be written.
"""

import os
import stat
import tempfile
from pathlib import Path

from lifeline.core.errors import ActionableError

_PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class ScratchError(ActionableError):
    """No directory for files that can be made again can be used.

    Operators: follow the advice in the message.
    """


def cache_dir() -> Path:
    """Return the user's cache: ``$XDG_CACHE_HOME/lifeline`` or ``~/.cache/lifeline``.

    Without a home, or with one that cannot be written and has no such cache, it is a directory of this user alone in
    the directory of temporary files. Raises ScratchError.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "lifeline"
    home = _home()
    if home is not None:
        in_home = home / ".cache" / "lifeline"
        if _is_dir(in_home) or _can_be_made(in_home):
            return in_home
    return _private_dir(temporary_root() / f"lifeline-{os.geteuid()}")


def temporary_dir(prefix: str) -> Path:
    """Make a temporary directory and return it; raises ScratchError."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=temporary_root()))


def temporary_root() -> Path:
    """Return the directory of temporary files; raises ScratchError if there is none that can be written."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise ScratchError(f"no directory for temporary files can be written ({error}): set TMPDIR to one") from None


def _home() -> Path | None:
    """Return the home of this user, None if nothing names one."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_absolute() else None


def _is_dir(path: Path) -> bool:
    """Return whether a path leads to a directory that this user may know of."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _can_be_made(path: Path) -> bool:
    """Return whether this user can make a directory, without making it."""
    for parent in path.parents:
        try:
            mode = parent.stat().st_mode
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return stat.S_ISDIR(mode) and os.access(parent, os.W_OK | os.X_OK)
    return False


def _private_dir(path: Path) -> Path:
    """Make a directory, or check one: anybody can make another of that name in a temporary directory."""
    try:
        path.mkdir(_PRIVATE, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ScratchError(f"{path} cannot be made ({error.strerror}): set XDG_CACHE_HOME to a directory") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise ScratchError(
            f"{path} is not a directory of this user alone, so others could change what is in it: remove it, or set "
            "XDG_CACHE_HOME to another directory"
        )
    return path
