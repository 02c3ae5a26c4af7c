"""Weights on disk: models/<name>/<version>/{weights.safetensors, manifest.json}.

The manifest holds everything that the weights depend on. A version is written to a temporary directory and renamed into
place, so it is complete or absent, and it never changes. Later measurements of it are stored beside it: precision.json,
and the scales of int8 in calibration.safetensors.

Files are checked against bounds before they are used: first their sizes, then every number of the manifest, then names,
dtypes and shapes of tensors. The hashes detect damage, not tampering: who can write a version can write its manifest.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save as bytes_of
from torch import Tensor

from lifeline.core.atomic_files import sync_directory, sync_tree, write_durably
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import ModelCorruptError, ModelExistsError, ModelMismatchError, ModelNotFoundError
from lifeline.scorer.int8 import Calibration, calibration_of
from lifeline.scorer.int8 import tensors_of as tensors_of_calibration
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.settings import ScorerSettings, ServedPrecision
from lifeline.scorer.shapes import Shapes, calibration_shapes, element_count, weight_shapes
from lifeline.scorer.tensor_file import max_bytes, read_tensors
from lifeline.scorer.versions import PUT_BACK, Name, Version, directories, find, no_version_error

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
PRECISION = "precision.json"
CALIBRATION = "calibration.safetensors"

MAX_NUMBERS = 1 << 26
"""The most numbers in all tensors of a model: 256 MiB."""
_MAX_JSON_BYTES = 1 << 20
_MEASURE_AGAIN = "run lifeline quantize again"
_log = structlog.get_logger(__name__)


class DataRange(BaseModel):
    """The events a model was trained and measured on, by event time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_timestamp_ms: int
    to_timestamp_ms: int


class Manifest(BaseModel):
    """The identity of the weights, and everything they depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: Name
    version: Name
    created_at: AwareDatetime
    config: ModelConfig
    vocabulary: Vocabulary
    embedding_version: int | None = None
    data: DataRange | None = None
    metrics: dict[str, float] = {}
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class MeasuredPrecision(BaseModel):
    """How well a version ranks at lower precision, as measured by `lifeline quantize`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests: int
    bfloat16_accepted: bool
    int8_accepted: bool
    calibration_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    measures: dict[str, dict[str, float]]
    """By precision: the fields of `Agreement` with float32."""


class LoadedModel(NamedTuple):
    """A model, ready to score, and its manifest."""

    model: TransAct
    manifest: Manifest
    bfloat16_accepted: bool = False
    """Whether `lifeline quantize` has accepted it in bfloat16."""
    calibration: Calibration | None = None
    """For int8; None if `lifeline quantize` has not accepted it in int8."""

    def precision(self, setting: ServedPrecision) -> Precision:
        """Return the precision that the setting `scorer.precision` selects for this version."""
        if setting != "auto":
            return Precision(setting)
        return Precision.BFLOAT16 if self.bfloat16_accepted else Precision.FLOAT32


def new_version(now: datetime) -> str:
    """Return a version name for the time `now`; names sort by time."""
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def save(
    models_dir: Path,
    name: str,
    model: TransAct,
    vocabulary: Vocabulary,
    *,
    version: str | None = None,
    embedding_version: int | None = None,
    data: DataRange | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Manifest:
    """Write a new version, by default named by the time; raises ModelExistsError if it exists."""
    now = datetime.now(UTC)
    weights = bytes_of({key: tensor.contiguous() for key, tensor in model.state_dict().items()})
    manifest = Manifest(
        name=name,
        version=version or new_version(now),
        created_at=now,
        config=model.config,
        vocabulary=vocabulary,
        embedding_version=embedding_version,
        data=data,
        metrics=dict(metrics or {}),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    parent = models_dir / name
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{manifest.version}.", dir=parent))
    try:
        (temporary / WEIGHTS).write_bytes(weights)
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        sync_tree(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(parent / manifest.version)
        except OSError as error:
            if not (parent / manifest.version).exists():
                raise
            raise ModelExistsError(
                f"{parent / manifest.version} exists already: give the new weights another version"
            ) from error
        sync_directory(parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def list_versions(models_dir: Path, name: str) -> list[Manifest]:
    """Return the manifests of a model's versions, oldest first.

    Raises ModelNotFoundError if they cannot be listed, and ModelCorruptError if one is damaged.
    """
    return _by_age([manifest_of(version) for version in directories(models_dir, name)])


def usable_versions(models_dir: Path, name: str) -> list[str]:
    """Return the versions of a model with a valid manifest, oldest first; others are logged and skipped.

    Raises ModelNotFoundError if they cannot be listed.
    """
    manifests = []
    for version in directories(models_dir, name):
        try:
            manifests.append(manifest_of(version))
        except (ModelCorruptError, ModelNotFoundError) as error:
            _log.warning("a version of the model is skipped", version=str(version), why=str(error))
    return [manifest.version for manifest in _by_age(manifests)]


def manifest_of(version: Version) -> Manifest:
    """Read one version's manifest; raises ModelNotFoundError or ModelCorruptError."""
    try:
        manifest = Manifest.model_validate_json(version.read(MANIFEST, _MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"{version} has no {MANIFEST}: train a model, or correct scorer.models_dir, scorer.model and scorer.version"
        ) from error
    except ValidationError as error:
        raise ModelCorruptError(
            f"{MANIFEST} of {version} is not a valid manifest ({_why(error)}): {PUT_BACK}"
        ) from error
    if (manifest.name, manifest.version) != (version.model, version.name):
        raise ModelCorruptError(
            f"{version} holds the manifest of {manifest.name}/{manifest.version}: rename the directory to that"
        )
    return manifest


def load(settings: ScorerSettings, vocabulary: Vocabulary, *, measured: bool = True) -> LoadedModel:
    """Load the configured version, or the newest; with `measured`, also its precision measurement.

    Raises ModelNotFoundError, ModelCorruptError if a file does not fit its manifest or exceeds a bound, and
    ModelMismatchError if the model was trained for another vocabulary.
    """
    name = settings.version
    if name is None:
        versions = list_versions(settings.models_dir, settings.model)
        if not versions:
            raise no_version_error(settings.model)
        name = versions[-1].version
    version = find(settings.models_dir, settings.model, name)
    manifest = manifest_of(version)
    check_vocabulary(manifest, vocabulary)
    model = _read_weights(version, manifest)
    precision = read_precision(version, manifest) if measured else None
    if precision is None:
        return LoadedModel(model, manifest)
    calibration = _read_calibration(version, manifest, precision) if precision.int8_accepted else None
    return LoadedModel(model, manifest, precision.bfloat16_accepted, calibration)


def read_precision(version: Version, manifest: Manifest) -> MeasuredPrecision | None:
    """Return the precision measurement of a version, or None; raises ModelCorruptError for a damaged file."""
    try:
        measured = MeasuredPrecision.model_validate_json(version.read(PRECISION, _MAX_JSON_BYTES, _MEASURE_AGAIN))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ModelCorruptError(
            f"{PRECISION} of {version} is not what lifeline quantize writes ({_why(error)}): {_MEASURE_AGAIN}"
        ) from error
    if measured.weights_sha256 != manifest.weights_sha256:
        raise ModelCorruptError(f"{PRECISION} of {version} was measured with other weights: {_MEASURE_AGAIN}")
    return measured


def save_precision(directory: Path, measured: MeasuredPrecision, calibration: Calibration) -> None:
    """Write a measurement beside a version, replacing an earlier one; sets the hash of the calibration."""
    content = bytes_of(tensors_of_calibration(calibration))
    complete = measured.model_copy(update={"calibration_sha256": hashlib.sha256(content).hexdigest()})
    # The calibration first: the measurement names its hash.
    for name, file_content in (
        (CALIBRATION, content),
        (PRECISION, complete.model_dump_json(indent=2).encode() + b"\n"),
    ):
        write_durably(directory / name, file_content)


def check_vocabulary(manifest: Manifest, vocabulary: Vocabulary) -> None:
    """Raise ModelMismatchError if the model was trained for another vocabulary."""
    for what, ours, theirs in (
        ("action types", dict(vocabulary.action_types), dict(manifest.vocabulary.action_types)),
        ("surfaces", dict(vocabulary.surfaces), dict(manifest.vocabulary.surfaces)),
    ):
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differing:
            raise ModelMismatchError(
                f"model {manifest.name}/{manifest.version} was trained with other {what} than this node has "
                f"(they differ in {', '.join(differing[:5])}): train with this vocabulary, or configure the "
                "vocabulary of the model"
            )


def _read_weights(version: Version, manifest: Manifest) -> TransAct:
    shapes = weight_shapes(manifest.config)
    if element_count(shapes) > MAX_NUMBERS:
        raise ModelCorruptError(
            f"{version} has {element_count(shapes)} weights by its {MANIFEST}, more than {MAX_NUMBERS}: {PUT_BACK}"
        )
    tensors = _read_file(version, WEIGHTS, shapes, manifest.weights_sha256, PUT_BACK)
    model = TransAct(manifest.config)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(requires_grad=False)


def _read_calibration(version: Version, manifest: Manifest, measured: MeasuredPrecision) -> Calibration:
    if manifest.config.encoder != "transact":
        raise ModelCorruptError(f"encoder {manifest.config.encoder} of {version} has no int8: {_MEASURE_AGAIN}")
    shapes = calibration_shapes(manifest.config)
    tensors = _read_file(version, CALIBRATION, shapes, measured.calibration_sha256, _MEASURE_AGAIN)
    try:
        return calibration_of(tensors)
    except ValueError as error:
        raise ModelCorruptError(f"{CALIBRATION} of {version}: {error}: {_MEASURE_AGAIN}") from error


def _read_file(version: Version, file: str, shapes: Shapes, sha256: str, advice: str) -> dict[str, Tensor]:
    """Return the tensors of a file; raises ModelCorruptError if it is missing or damaged."""
    try:
        content = version.read(file, max_bytes(shapes), advice)
    except FileNotFoundError as error:
        raise ModelCorruptError(f"{file} of {version} is missing: {advice}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelCorruptError(f"{file} of {version} does not have the SHA-256 of the saved file: {advice}")
    try:
        return read_tensors(content, shapes)
    except ValueError as error:
        raise ModelCorruptError(f"{file} of {version}: {error}: {advice}") from error


def _by_age(manifests: list[Manifest]) -> list[Manifest]:
    return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.version))


def _why(error: ValidationError) -> str:
    """Return the first error and its location, at most 200 characters."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}"[:200]
