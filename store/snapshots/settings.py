"""The settings of snapshots."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from lifeline.core.credentials import password_text

_JSON_LITERALS = frozenset({"true", "false", "null"})
_WITH_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


def _as_text(value: object) -> object:
    """Return a value that is not a string as JSON, so that every option can be a SecretStr."""
    if isinstance(value, str):
        return password_text(value)
    return value if isinstance(value, SecretStr) else json.dumps(value, default=str)


def _without_password(url: str) -> str:
    if _WITH_PASSWORD.search(url):
        raise ValueError("it contains a password, which logs would show: move it to snapshot.storage_options")
    return url


class SnapshotSettings(BaseModel):
    """Where snapshots are stored, and how many are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[
        str | None,
        Field(
            min_length=1,
            description="where snapshots are stored: any URL that fsspec supports, such as s3://bucket/path",
        ),
        AfterValidator(lambda url: url and _without_password(url)),
    ] = None
    keep: Annotated[int, Field(ge=1, le=1_000, description="how many snapshots of each partition are kept")] = 3
    storage_options: Annotated[
        dict[str, Annotated[SecretStr, BeforeValidator(_as_text)]],
        Field(description="options for the library behind the URL; for s3: key, secret, endpoint_url"),
    ] = {}

    def options(self) -> dict[str, Any]:
        """Return the storage options without masking, with values in JSON other than strings and numbers decoded."""
        return {name: _from_text(value.get_secret_value()) for name, value in self.storage_options.items()}


def _from_text(text: str) -> Any:  # noqa: ANN401 - anything that JSON can hold
    """Decode JSON objects, lists, true, false and null. Digits stay text: they may be an access key."""
    if text in _JSON_LITERALS or text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
