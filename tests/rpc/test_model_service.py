"""A version is exchanged while requests are scored: what is not there or damaged changes nothing."""

import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import torch

from lifeline.client import LifelineClient, LifelineError
from lifeline.rpc.model_service import ModelService
from lifeline.rpc.score_service import ModelHolder
from lifeline.scorer import weights
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.settings import ScorerSettings
from lifeline.v1 import model_pb2_grpc
from tests.support.embedding_tables import Table
from tests.support.scorer_factories import SMALL, VOCABULARY


@pytest.fixture
def settings(tmp_path: Path) -> ScorerSettings:
    for seed, version in enumerate(("1", "2", "3")):
        torch.manual_seed(seed)
        weights.save(tmp_path, "transact", TransAct(SMALL).eval(), VOCABULARY, version=version)
    return ScorerSettings(models_dir=tmp_path)


@pytest.fixture
def holder(settings: ScorerSettings) -> ModelHolder:
    return ModelHolder(settings)


@pytest.fixture
def client(settings: ScorerSettings, holder: ModelHolder) -> Iterator[LifelineClient]:
    def load(version: str | None) -> Scorer:
        versioned = settings.model_copy(update={"version": version})
        return Scorer(weights.load(versioned, VOCABULARY), VOCABULARY, Table())

    def versions() -> list[str]:
        return weights.usable_versions(settings.models_dir, settings.model)

    server = grpc.server(futures.ThreadPoolExecutor(4))
    model_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(holder, load, versions), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with LifelineClient(f"127.0.0.1:{port}", timeout_s=60) as opened:
        yield opened
    server.stop(None).wait()


def test_a_node_without_a_model_gets_one(client: LifelineClient, holder: ModelHolder) -> None:
    found = client.get_model()
    assert (found.name, found.version, found.versions) == ("", "", ("1", "2", "3"))
    assert client.use_model() == ("3", "")
    found = client.get_model()
    assert (found.name, found.version) == ("transact", "3")
    assert found.kernels in {"torch", "avx2", "avx512", "bf16"}
    assert holder.scorer is not None
    assert client.use_model("1") == ("1", "3")


def test_a_version_that_is_not_there_changes_nothing(client: LifelineClient) -> None:
    client.use_model("2")
    with pytest.raises(LifelineError, match="train a model, or correct") as caught:
        client.use_model("4")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert client.get_model().version == "2"


def test_a_version_that_is_damaged_changes_nothing(client: LifelineClient, settings: ScorerSettings) -> None:
    client.use_model("2")
    path = settings.models_dir / "transact" / "1" / weights.WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LifelineError) as caught:
        client.use_model("1")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    assert client.get_model().version == "2"


def test_whoever_asks_while_it_changes_gets_one_version_or_the_other(
    client: LifelineClient, holder: ModelHolder
) -> None:
    client.use_model("1")
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        # A thread that never waits would leave the server a turn of the interpreter only every few milliseconds.
        while not ended.wait(0.0002):
            chosen = holder.current("ann")
            assert chosen is not None
            seen.add(chosen.scorer.manifest.version)

    with futures.ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        try:
            for number in range(9):
                client.use_model(str(1 + number % 3))
        finally:
            ended.set()
        for future in looking:
            future.result()
    assert seen == {"1", "2", "3"}


@pytest.mark.parametrize("version", ["../transact/1", "..", "/1", "1\x00", "1\n", "1/../2", "é"])
def test_a_version_is_a_name_and_no_path(client: LifelineClient, holder: ModelHolder, version: str) -> None:
    with pytest.raises(LifelineError, match="this node has no such version") as caught:
        client.use_model(version)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert holder.scorer is None
