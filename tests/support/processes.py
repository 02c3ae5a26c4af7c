"""Child processes that the tests kill: each runs a function of this package and talks in lines."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in another interpreter with `arguments` as sys.argv[1:]; it is dead afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str], word: str) -> str:
    """Read one line of the child and return what follows `word`; fails with the child's own error."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(word):
        process.kill()
        raise AssertionError(f"the child said {line!r} and not {word!r}: {process.communicate()[1]}")
    return line.removeprefix(word).strip()


def last_acknowledged(process: subprocess.Popen[str], before: int) -> int:
    """Kill -9 the child and return the last number it got out as a whole line."""
    assert process.stdout is not None
    assert process.stderr is not None
    process.kill()
    # communicate() would pass over the lines that `said` has read ahead.
    output, errors = process.stdout.read(), process.stderr.read()
    assert process.wait() == -9, errors
    whole = output.split("\n")[:-1]
    return int(whole[-1]) if whole else before


def open_files(pid: int) -> list[str]:
    """Return what a process has open: paths, and names of sockets and pipes."""
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return names
