import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as bytes_of

from lifeline.core.vocabulary import ActionType, Vocabulary
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import ModelCorruptError, ModelExistsError, ModelMismatchError, ModelNotFoundError
from lifeline.scorer.int8 import Calibration
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import ScorerSettings
from lifeline.scorer.weights import (
    CALIBRATION,
    MANIFEST,
    PRECISION,
    WEIGHTS,
    DataRange,
    Manifest,
    MeasuredPrecision,
    list_versions,
    load,
    new_version,
    save,
    save_precision,
)
from tests.support.scorer_factories import SMALL, VOCABULARY


def saved(models: Path, version: str | None = None, config: ModelConfig = SMALL) -> tuple[TransAct, Manifest]:
    model = TransAct(config)
    manifest = save(
        models,
        "transact",
        model,
        VOCABULARY,
        version=version,
        embedding_version=3,
        data=DataRange(from_timestamp_ms=1, to_timestamp_ms=2),
        metrics={"auc": 0.7},
    )
    return model, manifest


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    model, manifest = saved(tmp_path)
    loaded = load(ScorerSettings(models_dir=tmp_path), VOCABULARY)
    assert loaded.manifest == manifest
    assert loaded.manifest.embedding_version == 3
    assert loaded.model.config == SMALL
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.model.state_dict()[key])
    directory = tmp_path / "transact" / manifest.version
    assert sorted(path.name for path in directory.iterdir()) == [MANIFEST, WEIGHTS]
    assert [path.name for path in directory.parent.iterdir()] == [manifest.version]


def test_the_newest_is_loaded_unless_a_version_is_named(tmp_path: Path) -> None:
    for version in ("b", "a"):
        saved(tmp_path, version)
    assert [manifest.version for manifest in list_versions(tmp_path, "transact")] == ["b", "a"]
    assert load(ScorerSettings(models_dir=tmp_path), VOCABULARY).manifest.version == "a"
    assert load(ScorerSettings(models_dir=tmp_path, version="b"), VOCABULARY).manifest.version == "b"


def test_versions_by_time_sort_by_time() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    versions = [new_version(now + timedelta(microseconds=step)) for step in (0, 1, 999_999, 1_000_000)]
    assert versions == sorted(versions)
    assert len(set(versions)) == 4


def test_a_version_never_changes(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path, "one")
    with pytest.raises(ModelExistsError, match="another version"):
        saved(tmp_path, "one")
    assert list_versions(tmp_path, "transact") == [manifest]
    assert [path.name for path in (tmp_path / "transact").iterdir()] == ["one"]


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, f"no space for {descriptor}")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path, "one")
    assert list((tmp_path / "transact").iterdir()) == []


def test_what_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="train a model"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)
    _, manifest = saved(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"correct scorer\.models_dir"):
        load(ScorerSettings(models_dir=tmp_path, version="other"), VOCABULARY)
    (tmp_path / "transact" / manifest.version / WEIGHTS).unlink()
    with pytest.raises(ModelCorruptError, match="is missing"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


def test_tampered_weights_are_refused(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path)
    path = tmp_path / "transact" / manifest.version / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelCorruptError, match="SHA-256"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format_version": 2}'])
def test_a_bad_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    _, manifest = saved(tmp_path)
    (tmp_path / "transact" / manifest.version / MANIFEST).write_bytes(content)
    with pytest.raises(ModelCorruptError, match="train again"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


def test_a_moved_version_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "one")
    (tmp_path / "transact" / "one").rename(tmp_path / "transact" / "two")
    with pytest.raises(ModelCorruptError, match="transact/one"):
        list_versions(tmp_path, "transact")


def edit(directory: Path, content: bytes, **changes: object) -> None:
    """Rewrite a version's weights and manifest so that the hash agrees again."""
    (directory / WEIGHTS).write_bytes(content)
    manifest = json.loads((directory / MANIFEST).read_text())
    manifest |= {"weights_sha256": hashlib.sha256(content).hexdigest()} | changes
    (directory / MANIFEST).write_text(json.dumps(manifest))


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path)
    directory = tmp_path / "transact" / manifest.version
    content = (directory / WEIGHTS).read_bytes()
    settings = ScorerSettings(models_dir=tmp_path)
    wider = SMALL.model_copy(update={"ffn": 48})
    edit(directory, content, config=json.loads(wider.model_dump_json()))
    with pytest.raises(ModelCorruptError, match="does not fit"):
        load(settings, VOCABULARY)
    edit(directory, b"not safetensors", config=json.loads(SMALL.model_dump_json()))
    with pytest.raises(ModelCorruptError, match="not a safetensors file"):
        load(settings, VOCABULARY)
    model = TransAct(SMALL)
    with torch.no_grad():
        model.read_out.bias[0] = torch.nan
    edit(directory, bytes_of(dict(model.state_dict())))
    with pytest.raises(ModelCorruptError, match="not finite"):
        load(settings, VOCABULARY)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    settings = ScorerSettings(models_dir=tmp_path)
    types = dict(VOCABULARY.action_types)
    for other, message in (
        (Vocabulary(action_types=types | {"share": ActionType(id=6)}), "action types.*share"),
        (Vocabulary(surfaces={"home": 2, "search": 1, "related": 3}), "surfaces.*home"),
    ):
        with pytest.raises(ModelMismatchError, match=message):
            load(settings, other)
    # The order of names means nothing.
    load(settings, Vocabulary(action_types=dict(reversed(types.items()))))


CALIBRATED = Calibration(
    [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)],
    [torch.tensor(4.0), torch.tensor(5.0)],
    [torch.arange(1.0, 65.0), torch.ones(64)],
    [torch.ones(32), torch.arange(1.0, 33.0)],
)


def measured(manifest: Manifest, *, accepted: bool = True, int8: bool = False) -> MeasuredPrecision:
    return MeasuredPrecision(
        weights_sha256=manifest.weights_sha256,
        requests=9,
        bfloat16_accepted=accepted,
        int8_accepted=int8,
        calibration_sha256="0" * 64,
        measures={"bfloat16": {"tau": 1}},
    )


@pytest.mark.parametrize("accepted", [True, False])
def test_what_was_measured_of_a_version_is_loaded_with_it(tmp_path: Path, accepted: bool) -> None:
    _, manifest = saved(tmp_path)
    settings = ScorerSettings(models_dir=tmp_path)
    assert not load(settings, VOCABULARY).bfloat16_accepted
    directory = tmp_path / "transact" / manifest.version
    save_precision(directory, measured(manifest, accepted=not accepted, int8=not accepted), CALIBRATED)
    save_precision(directory, measured(manifest, accepted=accepted, int8=accepted), CALIBRATED)
    found = load(settings, VOCABULARY)
    assert found.bfloat16_accepted is accepted
    assert (found.calibration is not None) is accepted
    if found.calibration is not None:
        for parts, others in zip(found.calibration, CALIBRATED, strict=True):
            assert all(torch.equal(part, other) for part, other in zip(parts, others, strict=True))
    assert sorted(path.name for path in directory.iterdir()) == sorted([MANIFEST, PRECISION, CALIBRATION, WEIGHTS])


def test_what_was_measured_with_other_weights_is_refused(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path)
    directory = tmp_path / "transact" / manifest.version
    other = measured(manifest).model_copy(update={"weights_sha256": "0" * 64})
    save_precision(directory, other, CALIBRATED)
    with pytest.raises(ModelCorruptError, match="measured with other weights: run lifeline quantize again"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)
    (directory / PRECISION).write_text("{}")
    with pytest.raises(ModelCorruptError, match="is not what lifeline quantize writes"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


def test_a_calibration_that_is_not_the_one_measured_is_refused(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path)
    directory = tmp_path / "transact" / manifest.version
    save_precision(directory, measured(manifest, int8=True), CALIBRATED)
    (directory / CALIBRATION).write_bytes((directory / CALIBRATION).read_bytes()[:-1] + b"x")
    with pytest.raises(ModelCorruptError, match="run lifeline quantize again"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)
    (directory / CALIBRATION).unlink()
    with pytest.raises(ModelCorruptError, match="is missing: run lifeline quantize again"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": [torch.tensor(1.0), torch.tensor(2.0)]},
        {"middle": [torch.tensor(1.0), torch.tensor(0.0)]},
        {"middle": [torch.tensor(1.0), torch.tensor(-1.0)]},
        {"middle": [torch.tensor(1.0), torch.tensor(torch.nan)]},
        {"middle": [torch.tensor(1.0), torch.tensor(torch.inf)]},
        {"middle": [torch.tensor(1.0), torch.tensor(1e-40)]},
        {"middle": [torch.tensor(1.0).double(), torch.tensor(1.0).double()]},
        {"values": [torch.ones(63), torch.ones(63)]},
        {"wide": [torch.ones(64), torch.ones(64)]},
        {"wide": [torch.ones(1, 32), torch.ones(1, 32)]},
    ],
)
def test_a_calibration_that_the_kernels_cannot_read_is_refused(
    tmp_path: Path, change: dict[str, list[torch.Tensor]]
) -> None:
    _, manifest = saved(tmp_path)
    directory = tmp_path / "transact" / manifest.version
    save_precision(directory, measured(manifest, int8=True), CALIBRATED._replace(**change))
    with pytest.raises(ModelCorruptError, match=r"calibration\.safetensors of .*: run lifeline quantize again"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)


def test_a_model_without_products_of_int8_has_no_calibration(tmp_path: Path) -> None:
    _, manifest = saved(tmp_path, config=SMALL.model_copy(update={"encoder": "bst", "nal_weight": 0.0}))
    save_precision(tmp_path / "transact" / manifest.version, measured(manifest, int8=True), CALIBRATED)
    with pytest.raises(ModelCorruptError, match=r"encoder bst of .* has no int8"):
        load(ScorerSettings(models_dir=tmp_path), VOCABULARY)
