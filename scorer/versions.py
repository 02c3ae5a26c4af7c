"""Versions of a model on disk: their names, which of them a models directory holds, and their files.

A name is compared with what the directory lists before it is part of any path. Below the directory of a model no
symbolic link is followed, and no file is read that is not a regular one or exceeds its limit. Files are read by
anyone who can name a version over gRPC, and written by anyone who can write the directory. Neither can make a node open
a file elsewhere, wait for a pipe, or run out of memory.
"""

import os
import re
import stat
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from lifeline.scorer.errors import ModelCorruptError, ModelNotFoundError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What names and versions of models look like: they are names of directories."""
Name = Annotated[str, Field(pattern=NAME)]
_NAME = re.compile(NAME)

PUT_BACK = "put the version back from a copy, or train again"


class Version(NamedTuple):
    """The directory of a version."""

    model: str
    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.model}/{self.name}"

    def read(self, file: str, max_bytes: int, advice: str = PUT_BACK) -> bytes:
        """Return the content of a file of at most `max_bytes` bytes.

        Raises FileNotFoundError, and ModelCorruptError if it is larger, not a regular file, or cannot be read.
        """
        try:
            # Non-blocking, because opening a pipe would wait for a writer.
            descriptor = os.open(self.path / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as opened:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ModelCorruptError(f"{file} of {self} is not a regular file: {advice}")
                if status.st_size > max_bytes:
                    raise ModelCorruptError(
                        f"{file} of {self} has {status.st_size} bytes, more than {max_bytes}: {advice}"
                    )
                # The file may grow after the check.
                return opened.read(max_bytes)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ModelCorruptError(f"{file} of {self} cannot be read ({error.strerror}): {advice}") from error


def directories(models_dir: Path, model: str) -> list[Version]:
    """Return the directories of a model's versions by name: none where the model has none.

    Raises ModelNotFoundError where they cannot be listed.
    """
    try:
        with os.scandir(models_dir / model) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ModelNotFoundError(
            f"the versions of {model} cannot be listed ({error.strerror}): correct scorer.models_dir or its permissions"
        ) from error
    # Hidden directories are incomplete versions.
    return [Version(model, name, models_dir / model / name) for name in sorted(names) if _NAME.fullmatch(name)]


def no_version_error(model: str) -> ModelNotFoundError:
    """Return the error for a model without any version."""
    return ModelNotFoundError(
        f"scorer.models_dir holds no version of {model}: train a model, or correct scorer.models_dir and scorer.model"
    )


def find(models_dir: Path, model: str, version: str) -> Version:
    """Return the directory of a version; raises ModelNotFoundError if there is no such version."""
    for candidate in directories(models_dir, model):
        if candidate.name == version:
            return candidate
    raise ModelNotFoundError(
        f"scorer.models_dir holds no {model}/{version}: train a model, or correct scorer.models_dir, scorer.model and "
        "scorer.version"
    )
