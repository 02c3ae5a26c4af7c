"""Reads the history of a git repository as actions: who changed which file, and when.

A user is an author (a hash of the e-mail address), an item is a file (a hash of its path), the surface is the top
directory (hashed to one of 16), and the timestamp is the author time of the commit. Actions come in the order of the
commits, so some arrive late, as in any real stream.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import IO, cast

from lifeline.core.scratch import temporary_root
from lifeline.core.vocabulary import ActionType, Role, Vocabulary
from lifeline.sources.files import Source, SourceError
from lifeline.v1.action_pb2 import Action

SURFACES = 16
FILES_VOCABULARY = Vocabulary(
    action_types={
        "add": ActionType(id=1, role=Role.POSITIVE),
        "modify": ActionType(id=2, role=Role.POSITIVE),
        "delete": ActionType(id=3, role=Role.NEGATIVE),
    },
    surfaces={f"dir{number:02d}": number + 1 for number in range(SURFACES)},
)
"""The vocabulary of git histories."""
FILES_VOCABULARY_FILE = Path(__file__).with_name("git-vocabulary.toml")
"""The same vocabulary as a configuration file."""

# T: a file became a link, or a link a file.
_NAMES = {b"A": "add", b"M": "modify", b"T": "modify", b"D": "delete"}
_COMMIT = b"\x01"


def git_source(repository: Path, vocabulary: Vocabulary) -> Source:
    """Return the actions of `repository`'s current branch without merges, in the order of the commits, oldest first.

    `vocabulary` must have the names of FILES_VOCABULARY; the actions get its ids. Raises SourceError when a name is
    missing, git is not installed, or the repository cannot be read.
    """
    missing = [name for name in FILES_VOCABULARY.action_types if name not in vocabulary.action_types]
    missing += [name for name in FILES_VOCABULARY.surfaces if name not in vocabulary.surfaces]
    if missing:
        raise SourceError(
            f"the vocabulary has no {', '.join(missing)}: give the configuration the [vocabulary] of "
            f"{FILES_VOCABULARY_FILE}"
        )
    _git(repository, "rev-parse", "--verify", "--quiet", "HEAD")
    return Source(f"git {repository.resolve().name}", None, lambda: _read(repository, vocabulary))


def user_of(email: bytes) -> str:
    """Return the user id of an author: "u" and 12 hex digits."""
    return "u" + blake2b(email.strip().lower(), digest_size=6).hexdigest()


def item_of(path: bytes) -> int:
    """Return the item id of a path: 64 bits."""
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "little")


def surface_of(path: bytes) -> str:
    """Return the name of a path's surface; files in the top directory share one."""
    directory, slash, _ = path.partition(b"/")
    top = directory if slash else b""
    return f"dir{blake2b(top, digest_size=1).digest()[0] % SURFACES:02d}"


def _read(repository: Path, vocabulary: Vocabulary) -> Iterator[Action]:
    types = {letter: vocabulary.action_types[name].id for letter, name in _NAMES.items()}
    user_id, timestamp_ms = "", 0
    cached_user, cached_item = cache(user_of), cache(item_of)
    cached_surface = cache(lambda path: vocabulary.surfaces[surface_of(path)])
    tokens = _tokens(repository)
    for token in tokens:
        if token.startswith(_COMMIT):
            user_id = cached_user(token.removeprefix(_COMMIT))
            # A malformed commit has no author time, or an impossible one: use 1 ms after the epoch.
            seconds = next(tokens, b"")
            timestamp_ms = int(seconds) * 1000 if seconds.isdigit() and len(seconds) < 13 else 1
        elif status := token.strip():
            path = next(tokens, b"")
            if status in types:
                yield Action(
                    user_id=user_id,
                    item_id=cached_item(path),
                    timestamp_ms=timestamp_ms,
                    action_type=types[status],
                    surface=cached_surface(path),
                )


def _tokens(repository: Path) -> Iterator[bytes]:
    """Yield the NUL-separated tokens of git log as it prints them. Raises SourceError."""
    command = _command(
        repository,
        *(
            "-c",
            "log.showSignature=false",
            "log",
            "--reverse",
            "--no-merges",
            "--no-renames",
            "--name-status",
        ),
        *("-z", f"--format={_COMMIT.decode()}%aE%x00%at"),
    )
    with (
        tempfile.TemporaryFile(dir=temporary_root()) as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603 - no shell
    ):
        output = cast("IO[bytes]", process.stdout)
        try:
            rest = b""
            while block := output.read(1 << 16):
                *tokens, rest = (rest + block).split(b"\0")
                yield from tokens
        except GeneratorExit:
            # The caller stopped early, and git would block on a full pipe.
            process.kill()
            raise
        if process.wait():
            errors.seek(0)
            raise _read_error(repository, errors.read())


def _git(repository: Path, *arguments: str) -> None:
    try:
        subprocess.run(_command(repository, *arguments), check=True, capture_output=True)  # noqa: S603
    except FileNotFoundError:
        raise SourceError("git is not installed: install it (Debian: apt-get install git)") from None
    except subprocess.CalledProcessError as error:
        raise _read_error(repository, error.stderr) from None


def _command(repository: Path, *arguments: str) -> list[str]:
    return ["git", "--no-pager", "-C", str(repository), *arguments]


def _read_error(repository: Path, stderr: bytes) -> SourceError:
    reason = stderr.decode(errors="replace").strip() or "it has no commit yet"
    return SourceError(f"git cannot read the history of {repository} ({reason}): name a clone with commits")
