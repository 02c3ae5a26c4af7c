"""Whoever names a version over gRPC reaches the versions that are listed, and learns nothing of anything else."""

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import torch

from lifeline.client import LifelineClient, LifelineError
from lifeline.rpc.model_service import ModelService
from lifeline.rpc.score_service import ModelHolder
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import ModelCorruptError
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.settings import ScorerSettings
from lifeline.v1 import model_pb2_grpc
from tests.support.embedding_tables import Table
from tests.support.scorer_factories import SMALL, VOCABULARY

MIB = 1 << 20


def saved(models_dir: Path, name: str, version: str, config: ModelConfig = SMALL) -> Path:
    torch.manual_seed(0)
    weights.save(models_dir, name, TransAct(config).eval(), VOCABULARY, version=version)
    return models_dir / name / version


@pytest.fixture
def settings(tmp_path: Path) -> ScorerSettings:
    saved(tmp_path / "models", "transact", "1")
    return ScorerSettings(models_dir=tmp_path / "models")


@pytest.fixture
def client(settings: ScorerSettings) -> Iterator[LifelineClient]:
    def load(version: str | None) -> Scorer:
        versioned = settings.model_copy(update={"version": version})
        return Scorer(weights.load(versioned, VOCABULARY), VOCABULARY, Table())

    def versions() -> list[str]:
        return weights.usable_versions(settings.models_dir, settings.model)

    server = grpc.server(futures.ThreadPoolExecutor(2))
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(ModelHolder(settings), load, versions), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with LifelineClient(f"127.0.0.1:{port}", timeout_s=60) as opened:
        yield opened
    server.stop(None).wait()


def test_every_other_name_gets_one_answer(client: LifelineClient, settings: ScorerSettings, tmp_path: Path) -> None:
    model = settings.models_dir / settings.model
    # Whole versions, each at a place that a name leads to.
    evil = saved(tmp_path / "drop", "evil", "v1")
    saved(settings.models_dir, "other", "v1")
    (model / "outside").symlink_to(evil)
    (model / "inside").symlink_to(model / "1")
    (model / "file").write_text("")
    (model / "empty").mkdir()
    (model / "broken").mkdir()
    (model / "broken" / weights.MANIFEST).write_text("{")
    (model / "linked").mkdir()
    (model / "linked" / weights.MANIFEST).symlink_to("/etc/passwd")
    saved(settings.models_dir, "transact", "moved").rename(model / "renamed")
    names = [
        "2",
        "../../drop/evil/v1",
        str(evil),
        "../other/v1",
        "/etc",
        "/etc/passwd",
        "/nowhere",
        ".",
        "..",
        "./1",
        "1/",
        "1/../1",
        "1\0",
        " 1",
        "1" * 10_000,
        "\u202e1",
        "outside",
        "inside",
        "file",
        "empty",
        "broken",
        "linked",
        "renamed",
        "moved",
    ]
    client.use_model("1")
    answers = set()
    for name in names:
        with pytest.raises(LifelineError) as caught:
            client.use_model(name)
        answers.add((caught.value.code, caught.value.reason, caught.value.args))
    assert len(answers) == 1
    assert {answer[:2] for answer in answers} == {(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")}
    found = client.get_model()
    assert (found.version, found.versions) == ("1", ("1",))
    assert client.use_model("1") == ("1", "1")


def test_no_refusal_tells_where_the_models_lie(client: LifelineClient, settings: ScorerSettings) -> None:
    path = saved(settings.models_dir, "transact", "2") / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LifelineError, match=r"weights\.safetensors of transact/2") as caught:
        client.use_model("2")
    assert caught.value.reason == "MODEL_UNUSABLE"
    assert str(settings.models_dir) not in str(caught.value)


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def growth(work: Callable[[], None]) -> int:
    """Return by how many bytes the process was larger, at its largest, while it worked."""
    before = status_kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return (status_kib("VmHWM") - before) * 1024


@pytest.mark.parametrize(
    "changes",
    [
        {"ffn": 3_000_000},
        {"layers": 1_000_000},
        {"mlp": [1_000_000, 1_000_000]},
        {"mlp": [1] * 100_000},
        {"similarity_buckets": 10**12},
        {"lifelong_selected": 2**62},
        {"heads": [{"name": str(n), "action_types": [1], "utility": 1} for n in range(10_000)]},
        # Each number is within its bounds.
        {"layers": 32, "ffn": 4096},
        {"mlp": [4096] * 32, "cross_layers": 32},
    ],
    ids="-".join,
)
def test_a_manifest_costs_nothing_until_its_weights_are_there(
    settings: ScorerSettings, changes: dict[str, object]
) -> None:
    path = settings.models_dir / "transact" / "1" / weights.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["config"] |= changes
    path.write_text(json.dumps(manifest))

    def load() -> None:
        with pytest.raises(ModelCorruptError, match="put the version back"):
            weights.load(settings, VOCABULARY)

    assert growth(load) < 16 * MIB


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 500_000,
        b'{"config":' * 50_000,
        b'{"format_version":' + b"9" * 900_000 + b"}",
        b'{"vocabulary": {"surfaces": {' + b",".join(b'"%d": 1' % n for n in range(60_000)) + b"}}}",
        b" " * (1 << 21),
    ],
    ids=["arrays", "objects", "digits", "names", "spaces"],
)
@pytest.mark.parametrize("file", [weights.MANIFEST, weights.PRECISION])
def test_a_bomb_of_json_is_one_refusal(settings: ScorerSettings, file: str, content: bytes) -> None:
    (settings.models_dir / "transact" / "1" / file).write_bytes(content)

    def load() -> None:
        with pytest.raises(ModelCorruptError) as caught:
            weights.load(settings, VOCABULARY)
        assert len(str(caught.value)) < 1_000

    assert growth(load) < 64 * MIB


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["utility", "input_scale", "nal_weight"])
def test_every_number_of_a_manifest_is_finite(settings: ScorerSettings, field: str, number: str) -> None:
    path = settings.models_dir / "transact" / "1" / weights.MANIFEST
    manifest = json.loads(path.read_text())
    if field == "utility":
        manifest["config"]["heads"][0][field] = "here"
    else:
        manifest["config"][field] = "here"
    path.write_text(json.dumps(manifest).replace('"here"', number))
    with pytest.raises(ModelCorruptError, match=f"{field}: "):
        weights.load(settings, VOCABULARY)
