"""The configuration: one typed tree, validated once, with the origin of every value.

Flags override ``LIFELINE_*`` variables (``__`` between the parts: ``LIFELINE_KAFKA__GROUP_ID``), these override a
TOML file (``--config``, ``LIFELINE_CONFIG``, or ``lifeline.toml`` in the working directory), and that overrides the
defaults. Nothing else in the program reads a setting from the environment.

Kubernetes gives every container the addresses of the services of its namespace. Those of a service called
``lifeline...`` begin like our variables, and are passed over.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from lifeline.core.errors import ConfigError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.redaction import redact
from lifeline.core.security import Caller, SecuritySettings
from lifeline.core.vocabulary import Vocabulary
from lifeline.rpc.settings import NodeSettings
from lifeline.scorer.kernels.instruction_set import VARIABLE as KERNELS_VARIABLE
from lifeline.scorer.settings import ScorerSettings
from lifeline.sources import HISTORY_VARIABLE
from lifeline.store.settings import StoreSettings
from lifeline.store.snapshots.settings import SnapshotSettings
from lifeline.stream.settings import UpdaterSettings

PREFIX = "LIFELINE_"
DELIMITER = "__"
CONFIG_VARIABLE = "LIFELINE_CONFIG"
OTHER_VARIABLES = {
    CONFIG_VARIABLE: "the configuration file",
    HISTORY_VARIABLE: "the directory of the demo's history",
    KERNELS_VARIABLE: "the backend of the scorer",
}
_SERVICE_ADDRESS = re.compile(
    r"LIFELINE(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_SERVICE_URL_NAME, _SERVICE_URL = re.compile(r"LIFELINE(_\w+)?_PORT"), re.compile(r"(tcp|udp|sctp)://.+:[0-9]+")
DEFAULT_FILE = Path("lifeline.toml")
DEFAULT = "default"


class Settings(BaseSettings):
    """The whole tree. Create it with `load_settings`; the class itself reads no source."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter=DELIMITER, hide_input_in_errors=True
    )

    node: NodeSettings = NodeSettings()
    kafka: KafkaSettings = KafkaSettings()
    updater: UpdaterSettings = UpdaterSettings()
    store: StoreSettings = StoreSettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    scorer: ScorerSettings = ScorerSettings()
    security: SecuritySettings = SecuritySettings()
    vocabulary: Vocabulary = Vocabulary()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller only: `load_settings` merges the sources and knows the name of each."""
        return (init_settings,)


class Row(NamedTuple):
    """A line of ``lifeline config show``."""

    key: str
    """The dotted key."""
    value: object
    """The value as in JSON; secrets are masked."""
    origin: str
    """Where the value comes from."""


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """The settings, and the origin of each by dotted key: "default", a file, "env NAME" or "flag --name"."""

    settings: Settings
    origin: Mapping[str, str]
    file: Path | None
    """The file that was read, if any."""
    reload: "Callable[[], LoadedSettings]"
    """Reads the same sources again; raises ConfigError."""

    def is_set(self, key: str) -> bool:
        """Return whether any source sets a setting, by its dotted key."""
        return self.origin[key] != DEFAULT

    def rows(self) -> list[Row]:
        """Return every setting in the order of the tree, secrets masked."""
        values = self.settings.model_dump(mode="json")
        return [Row(key, _redacted_if_text(_value_at(values, key)), origin) for key, origin in self.origin.items()]


@dataclass(frozen=True, slots=True)
class _Source:
    """The values of a source as a nested mapping, and the name under which it sets each dotted key."""

    values: dict[str, Any]
    names: Mapping[str, str]
    file: Path | None = None

    def name_of(self, key: str) -> str | None:
        """Return the name that sets `key`, or a parent of it; None if this source does not set it."""
        if _value_at(self.values, key) is _MISSING:
            return None
        parents = [known for known in self.names if key == known or key.startswith(f"{known}.") or known == ""]
        if parents:
            return self.names[max(parents, key=len)]
        children = {name: None for known, name in self.names.items() if known.startswith(f"{key}.")}
        return ", ".join(children)


_MISSING = object()


def load_settings(config: Path | None = None, flags: Mapping[str, object] | None = None) -> LoadedSettings:
    """Merge the sources and validate once.

    `config` is the file of ``--config``. `flags` maps dotted keys ("node.data_dir") to the values of flags, which are
    named after the last part ("--data-dir"); a value of None means that the flag is absent. Raises ConfigError with one
    sentence for each error.
    """
    sources = [_from_flags(flags or {}), _from_environment(), _from_file(config)]
    values: dict[str, Any] = {}
    for source in reversed(sources):
        values = _merge(values, source.values)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError([_problem(detail, sources) for detail in error.errors()]) from None
    origin = {key: _origin(key, sources) for key in _leaves(Settings)}
    return LoadedSettings(settings, origin, sources[-1].file, lambda: load_settings(config, flags))


def _from_flags(flags: Mapping[str, object]) -> _Source:
    values: dict[str, Any] = {}
    names = {}
    for key, value in flags.items():
        if value is not None:
            *parents, last = key.split(".")
            level = values
            for parent in parents:
                level = level.setdefault(parent, {})
            level[last] = value
            names[key] = f"flag --{last.replace('_', '-')}"
    return _Source(values, names)


def _from_environment() -> _Source:
    """Read the variables; raises ConfigError if one names no setting or holds invalid JSON."""
    names, problems = {}, []
    for variable in sorted(os.environ):
        if not variable.upper().startswith(PREFIX) or variable.upper() in OTHER_VARIABLES:
            continue
        path = variable[len(PREFIX) :].lower().split(DELIMITER)
        place = _field(path)
        if place is None and _is_service_address(variable):
            continue
        if place is None:
            known = [PREFIX + key.replace(".", DELIMITER).upper() for key in _leaves(Settings)]
            problems.append(f"{variable} names no setting: {_suggestion(variable.upper(), [*known, *OTHER_VARIABLES])}")
        elif place.is_tree and not _is_json_object(os.environ[variable]):
            problems.append(
                f"{variable} holds no JSON object: write one, or set its parts with {variable}{DELIMITER}NAME"
            )
        else:
            names[".".join(path)] = f"env {variable}"
    if problems:
        raise ConfigError(problems)
    try:
        return _Source(EnvSettingsSource(Settings)(), names)
    except SettingsError as error:
        # The message must not show the value, which may be a secret.
        raise ConfigError([f'a {PREFIX}* variable holds no JSON ({error}): write a list as ["A", "B"]']) from None


def _is_service_address(variable: str) -> bool:
    """Return whether Kubernetes made a variable, for a service whose name begins with "lifeline".

    A name that ends in ``_PORT`` may also be a mistaken setting: Kubernetes' value is a URL.
    """
    is_url = _SERVICE_URL_NAME.fullmatch(variable) and _SERVICE_URL.fullmatch(os.environ[variable])
    return bool(is_url or _SERVICE_ADDRESS.fullmatch(variable))


def _from_file(config: Path | None) -> _Source:
    """Read the TOML file, if there is one; raises ConfigError if a named file cannot be read."""
    selector = "--config" if config else CONFIG_VARIABLE
    path = config or Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)
    if config is None and CONFIG_VARIABLE not in os.environ and not path.exists():
        return _Source({}, {})
    try:
        if not path.is_file():
            raise ConfigError([f"{path} is not a file: create it, or name another with {selector}"])
        return _Source(TomlConfigSettingsSource(Settings, toml_file=path)(), {"": str(path)}, path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} is not TOML: correct it where it says: {error}"]) from None
    except OSError as error:
        raise ConfigError([f"{path} cannot be read ({error.strerror}): give this user permission to read it"]) from None


class _Field(NamedTuple):
    """The target of a dotted key."""

    is_tree: bool
    """Whether it is a mapping: a part of the tree, or a dictionary of the vocabulary."""
    is_secret: bool
    """Whether it is or contains a secret."""


def _field(path: list[str]) -> _Field | None:
    """Follow a key down the tree; None if it names nothing."""
    model: type[BaseModel] = Settings
    for depth, name in enumerate(path):
        field = model.model_fields.get(name)
        if field is None:
            return None
        child = _model_of(field)
        if child is None:
            is_tree = get_origin(field.annotation) is dict
            if depth + 1 < len(path):
                # The keys inside a dictionary are checked by its own type.
                return _Field(is_tree=False, is_secret=_is_secret(field.annotation)) if is_tree else None
            return _Field(is_tree=is_tree, is_secret=_is_secret(field.annotation))
        model = child
    return _Field(is_tree=True, is_secret=_is_secret(model))


def _is_secret(annotation: object) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation is Caller or any(_is_secret(field.annotation) for field in annotation.model_fields.values())
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every setting, in the order of the tree."""
    for name, field in model.model_fields.items():
        child = _model_of(field)
        if child is None:
            yield prefix + name
        else:
            yield from _leaves(child, f"{prefix}{name}.")


def _origin(key: str, sources: list[_Source]) -> str:
    field = _field(key.split("."))
    names = [name for source in sources if (name := source.name_of(key))]
    # Dictionaries of all sources are merged; of any other setting the first source wins.
    return ", ".join(names if field and field.is_tree else names[:1]) or DEFAULT


def _problem(detail: ErrorDetails, sources: list[_Source]) -> str:
    """Return a sentence with the source, the key, the error, and what to do."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    where = next((name for source in sources if (name := source.name_of(key))), "the settings")
    if detail["type"] == "extra_forbidden":
        return f"{where}: {key} is not a setting: {_suggestion(key, _neighbours(path))}"
    fault = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        # Our own validators already say what to do.
        return f"{where}: {key}: {fault}"
    field = _field(path)
    value = detail["input"]
    value_note = "" if (field and field.is_secret) or isinstance(value, dict) else f" (it is {redact(repr(value))})"
    return f"{where}: {key}: {fault[:1].lower()}{fault[1:]}{value_note}: correct the value"


def _neighbours(path: list[str]) -> list[str]:
    """Return the keys of the tree at the depth of `path`."""
    keys = {".".join(leaf.split(".")[: len(path)]) for leaf in _leaves(Settings)}
    return sorted(key for key in keys if key.count(".") + 1 == len(path))


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else "remove it (`lifeline config show` lists every setting)"


def _redacted_if_text(value: object) -> object:
    return redact(value) if isinstance(value, str) else value


def _value_at(values: Mapping[str, Any], key: str) -> object:
    level: object = values
    for part in key.split("."):
        if not isinstance(level, Mapping) or part not in level:
            return _MISSING
        level = level[part]
    return level


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in override.items():
        child = merged.get(key)
        merged[key] = _merge(child, value) if isinstance(child, dict) and isinstance(value, dict) else value
    return merged


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
