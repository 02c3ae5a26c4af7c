"""Weights on disk: models/<name>/<version>/{weights.safetensors, manifest.json}.

The manifest holds everything that the weights depend on. A version is written aside and renamed into place,
so it is there whole or not at all, and it never changes. What is measured of it later stands beside it, in
precision.json, and the scales of int8 in calibration.safetensors.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from scorer.config import ModelConfig
from scorer.errors import ModelCorruptError, ModelExistsError, ModelMismatchError, ModelNotFoundError
from scorer.int8 import Calibration, calibration_of
from scorer.int8 import tensors_of as tensors_of_calibration
from scorer.model import TransAct
from scorer.settings import NAME, ScorerSettings
from store.vocabulary import Vocabulary

WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"
PRECISION = "precision.json"
CALIBRATION = "calibration.safetensors"


class DataRange(BaseModel):
    """The events a model was trained and measured on, by event time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_timestamp_ms: int
    to_timestamp_ms: int


class Manifest(BaseModel):
    """What the weights are, and what they depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: str = Field(pattern=NAME)
    created_at: AwareDatetime
    config: ModelConfig
    vocabulary: Vocabulary
    embedding_version: int | None = None
    data: DataRange | None = None
    metrics: dict[str, float] = {}
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class MeasuredPrecision(BaseModel):
    """How well a version ranks with cheaper products, as `lifeline quantize` has measured it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests: int
    bfloat16_accepted: bool
    int8_accepted: bool
    calibration_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    measures: dict[str, dict[str, float]]
    """By precision: what was compared with float32."""


class LoadedModel(NamedTuple):
    """A model, ready to score, and its manifest."""

    model: TransAct
    manifest: Manifest
    bfloat16_accepted: bool = False
    """Whether it was measured to rank as well with products of bfloat16."""
    calibration: Calibration | None = None
    """Of int8; None where it was not measured to rank as well with its products."""


def new_version(now: datetime) -> str:
    """Return a version for weights made at `now`; later ones sort behind earlier ones."""
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
    """Write a new version, by default named by the time; raises ModelExistsError where it is there."""
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
    aside = Path(tempfile.mkdtemp(prefix=f".{manifest.version}.", dir=parent))
    try:
        _write(aside / WEIGHTS, weights)
        _write(aside / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
        aside.chmod(0o755)
        try:
            aside.rename(parent / manifest.version)
        except OSError as error:
            if not (parent / manifest.version).exists():
                raise
            raise ModelExistsError(
                f"{parent / manifest.version} is there already: give the new weights another version"
            ) from error
        _sync(parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def list_versions(models_dir: Path, name: str) -> list[Manifest]:
    """Return the manifests of a model's versions, oldest first; raises ModelCorruptError on a bad one."""
    directories = (path for path in (models_dir / name).glob("[!.]*") if path.is_dir())
    manifests = [read_manifest(directory) for directory in directories]
    return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.version))


def read_manifest(directory: Path) -> Manifest:
    """Read one version's manifest; raises ModelNotFoundError or ModelCorruptError."""
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"{directory} holds no {MANIFEST}: train a model, or correct scorer.models_dir, scorer.model and "
            "scorer.version"
        ) from error
    except ValidationError as error:
        raise ModelCorruptError(
            f"{directory / MANIFEST} is not a manifest this program reads ({error.errors()[0]['msg']}): put "
            "the version back from a copy, or train again"
        ) from error
    if (manifest.name, manifest.version) != (directory.parent.name, directory.name):
        raise ModelCorruptError(
            f"{directory} holds the manifest of {manifest.name}/{manifest.version}: give the directory that name again"
        )
    return manifest


def load(settings: ScorerSettings, vocabulary: Vocabulary, *, measured: bool = True) -> LoadedModel:
    """Load the configured version, or the newest, with what was measured of it unless that is left out.

    Raises ModelNotFoundError, ModelCorruptError where hash or shapes are not the manifest's, and
    ModelMismatchError where the model was trained for another vocabulary.
    """
    version = settings.version
    if version is None:
        versions = list_versions(settings.models_dir, settings.model)
        if not versions:
            raise ModelNotFoundError(
                f"{settings.models_dir / settings.model} holds no version: train a model, or correct "
                "scorer.models_dir and scorer.model"
            )
        version = versions[-1].version
    directory = settings.models_dir / settings.model / version
    manifest = read_manifest(directory)
    check_vocabulary(manifest, vocabulary)
    model = _read_weights(directory / WEIGHTS, manifest)
    found = read_precision(directory, manifest) if measured else None
    if found is None:
        return LoadedModel(model, manifest)
    calibration = _read_calibration(directory / CALIBRATION, found) if found.int8_accepted else None
    return LoadedModel(model, manifest, found.bfloat16_accepted, calibration)


def read_precision(directory: Path, manifest: Manifest) -> MeasuredPrecision | None:
    """Return what was measured of a version; None where nothing was, and ModelCorruptError for a bad file."""
    path = directory / PRECISION
    try:
        found = MeasuredPrecision.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ModelCorruptError(
            f"{path} is not what lifeline quantize writes ({error.errors()[0]['msg']}): run it again"
        ) from error
    if found.weights_sha256 != manifest.weights_sha256:
        raise ModelCorruptError(f"{path} was measured with other weights: run lifeline quantize again")
    return found


def save_precision(directory: Path, measured: MeasuredPrecision, calibration: Calibration) -> None:
    """Put what was measured beside a version, in the place of what was there; sets the calibration's hash."""
    content = bytes_of(tensors_of_calibration(calibration))
    whole = measured.model_copy(update={"calibration_sha256": hashlib.sha256(content).hexdigest()})
    # The calibration first: of the two what was measured says which belongs to it.
    for name, written in ((CALIBRATION, content), (PRECISION, whole.model_dump_json(indent=2).encode() + b"\n")):
        aside = directory / f".{name}.new"
        _write(aside, written)
        aside.replace(directory / name)
    _sync(directory)


def _read_calibration(path: Path, measured: MeasuredPrecision) -> Calibration:
    advice = "run lifeline quantize again"
    return calibration_of(tensors_of(_read_whole(path, measured.calibration_sha256, f"of {PRECISION}", advice)))


def _read_whole(path: Path, sha256: str, whose: str, advice: str) -> bytes:
    """Return a file's content; raises ModelCorruptError where it is missing or has another hash."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelCorruptError(f"{path} is missing: {advice}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelCorruptError(f"{path} does not have the SHA-256 {whose}: {advice}")
    return content


def check_vocabulary(manifest: Manifest, vocabulary: Vocabulary) -> None:
    """Raise ModelMismatchError where the model was trained for another vocabulary."""
    for what, ours, theirs in (
        ("action types", dict(vocabulary.action_types), dict(manifest.vocabulary.action_types)),
        ("surfaces", dict(vocabulary.surfaces), dict(manifest.vocabulary.surfaces)),
    ):
        differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differing:
            raise ModelMismatchError(
                f"model {manifest.name}/{manifest.version} was trained with other {what} than this node's "
                f"(they differ in {', '.join(differing[:5])}): train with this vocabulary, or configure the "
                "model's"
            )


def _read_weights(path: Path, manifest: Manifest) -> TransAct:
    advice = "put the version back from a copy, or train again"
    content = _read_whole(path, manifest.weights_sha256, "of its manifest", advice)
    try:
        tensors = tensors_of(content)
    except SafetensorError as error:
        raise ModelCorruptError(f"{path} is not a safetensors file ({error}): {advice}") from error
    model = TransAct(manifest.config)
    expected = {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}
    found = {key: (tensor.shape, tensor.dtype) for key, tensor in tensors.items()}
    differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if differing:
        raise ModelCorruptError(f"{path} does not fit its manifest's config in {differing[0]}: {advice}")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelCorruptError(f"{path} holds numbers that are not finite: {advice}")
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(requires_grad=False)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
