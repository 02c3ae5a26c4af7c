"""What can be set about snapshots."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

_JSON_LITERALS = frozenset({"true", "false", "null"})
_WITH_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")


def _as_text(value: object) -> object:
    """Return a value of a file that is no string as JSON, so that every option is a secret."""
    return value if isinstance(value, str | SecretStr) else json.dumps(value, default=str)


def _without_password(url: str) -> str:
    if _WITH_PASSWORD.search(url):
        raise ValueError("it holds a password, which logs would show: put it into snapshot.storage_options")
    return url


class SnapshotSettings(BaseModel):
    """Where snapshots go, and how many stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[
        str | None,
        Field(min_length=1, description="where snapshots are kept: any URL that fsspec knows, as s3://bucket/path"),
        AfterValidator(lambda url: url and _without_password(url)),
    ] = None
    keep: Annotated[int, Field(ge=1, le=1_000, description="snapshots of each partition that stay")] = 3
    storage_options: Annotated[
        dict[str, Annotated[SecretStr, BeforeValidator(_as_text)]],
        Field(description="given to the library behind the URL; for s3: key, secret, endpoint_url"),
    ] = {}

    def options(self) -> dict[str, Any]:
        """Return the storage options in clear: text, and what JSON has no quotes for as what it is."""
        return {name: _from_text(value.get_secret_value()) for name, value in self.storage_options.items()}


def _from_text(text: str) -> Any:  # noqa: ANN401 - anything that JSON can hold
    """Read objects, lists, true, false and null; digits may be the text of a key, and stay text."""
    if text in _JSON_LITERALS or text.startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
