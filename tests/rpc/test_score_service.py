import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifeline.core.actions import ActionBatch
from lifeline.core.reasons import Reason
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.score_service import CallSinks, ModelHolder, ScoreService
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.history_cache import HistoryCache
from lifeline.scorer.model import TransAct
from lifeline.scorer.scorer import Scorer, Scores
from lifeline.scorer.settings import ScorerSettings
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.settings import StoreSettings
from lifeline.v1 import score_pb2, score_pb2_grpc
from tests.support.refusals import info_of
from tests.support.scorer_factories import DAY, MINUTE, SMALL, VOCABULARY, embeddings, loaded

NOW_MS = 500 * DAY
USER = "Ünal"
SETTINGS = ScorerSettings(max_candidates=8, max_concurrent=1, max_queue_ms=50)
KNOWN = embeddings(np.random.default_rng(0), 20)


class Gate(Scorer):
    """A scorer that stops in the middle until the test lets it go on."""

    def __init__(self, embeddings: EmbeddingTable) -> None:
        torch.manual_seed(0)
        super().__init__(loaded(TransAct(SMALL)), VOCABULARY, embeddings)
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.calls = 0

    def score(
        self,
        history: History,
        candidate_ids: NDArray[np.uint64],
        context: RequestContext,
        *,
        candidate_embeddings: NDArray[np.int8] | None = None,
        explain: int | None = None,
    ) -> Scores:
        self.calls += 1
        self.entered.release()
        assert self.open.wait(20)
        return super().score(
            history, candidate_ids, context, candidate_embeddings=candidate_embeddings, explain=explain
        )


@dataclass
class Node:
    """A node's scoring, with one partition in it."""

    stub: score_pb2_grpc.ScoreServiceStub
    store: PartitionStore
    scorer: Gate
    models: ModelHolder
    directory: PartitionDirectory

    def act(self, offset: int, *rows: tuple[int, int, int]) -> None:
        """Apply (timestamp_ms, item, action type) rows of USER."""
        columns = np.array(rows, np.int64).reshape(-1, 3).T
        kind = VOCABULARY.kind_of_type[columns[2]]
        self.store.apply(
            ActionBatch.of(
                [USER.encode()] * len(rows),
                columns[0],
                columns[1].astype(np.uint64),
                columns[2].astype(np.uint8),
                np.ones(len(rows), np.uint8),
                kind,
                columns[0],
            ),
            offset=offset,
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    threads = torch.get_num_threads()
    table = EmbeddingTable.open(tmp_path / "items")
    ids = np.arange(20, dtype=np.uint64)
    table.apply(ids, KNOWN, np.ones(20, np.uint32), partition=0, offset=0)
    settings = StoreSettings(block_cache_mib=8, write_buffer_mib=4)
    store = PartitionStore.open(tmp_path / "p0", partition=0, settings=settings, memory=SharedMemory(settings))
    directory = PartitionDirectory(lambda key: int(key == b"elsewhere"), table)
    directory.add(store)
    scorer = Gate(table)
    models = ModelHolder(SETTINGS, scorer)
    service = ScoreService(
        directory,
        models,
        VOCABULARY,
        SETTINGS,
        HistoryCache(1 << 20),
        max_reply_bytes=2_000,
        clock=lambda: NOW_MS / 1000,
    )
    server = grpc.server(futures.ThreadPoolExecutor(4))
    score_pb2_grpc.add_ScoreServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Node(score_pb2_grpc.ScoreServiceStub(channel), store, scorer, models, directory)
    scorer.open.set()
    server.stop(None).wait()
    store.close()
    table.close()
    torch.set_num_threads(threads)


def request(*items: int, user: str = USER, **fields: object) -> score_pb2.ScoreRequest:
    message = score_pb2.ScoreRequest(user_id=user, item_id=items)
    context = score_pb2.ScoreContext(**{k: v for k, v in fields.items() if k in ("surface", "timestamp_ms")})  # type: ignore[arg-type]
    rest = {k: v for k, v in fields.items() if k not in ("surface", "timestamp_ms")}
    message.MergeFrom(score_pb2.ScoreRequest(context=context, **rest))  # type: ignore[arg-type]
    return message


def refusal(
    node: Node, message: score_pb2.ScoreRequest, timeout: float = 20
) -> tuple[grpc.StatusCode, Reason, dict[str, str], str]:
    with pytest.raises(grpc.RpcError) as raised:
        node.stub.Score(message, timeout=timeout)
    call, info = cast("grpc.Call", raised.value), info_of(raised.value)
    assert info.domain == "lifeline"
    return call.code(), Reason(info.reason), dict(info.metadata), call.details() or ""


def test_an_answer_has_scores_and_what_they_stand_on(node: Node) -> None:
    node.act(7, (NOW_MS - DAY, 3, 1), (NOW_MS - DAY + 1, 3, 2), (NOW_MS - MINUTE, 5, 4), (NOW_MS - 2 * DAY, 6, 5))
    reply = node.stub.Score(request(3, 99, 3, explain=True))
    assert list(reply.heads) == ["repin", "click", "closeup", "hide"]
    assert (reply.model.name, reply.model.version) == ("made", "1")
    assert (reply.as_of.partition, reply.as_of.applied_offset) == (0, 7)
    assert reply.as_of.watermark_ms == NOW_MS - MINUTE
    assert list(reply.embedding_known) == [True, False, True]
    assert len(reply.score) == 3
    assert reply.score[0] == pytest.approx(reply.score[2], abs=1e-6)
    utility = [1, 1, 0.2, -1]
    assert len(reply.probability) == 12
    first = reply.probability[:4]
    assert reply.score[0] == pytest.approx(sum(u * p for u, p in zip(utility, first, strict=True)), abs=1e-5)
    recent, newest, shown = reply.explanations[0].selected
    assert recent.source == newest.source == score_pb2.TOKEN_SOURCE_RECENT
    assert (recent.item_id, list(recent.action_types), recent.surface) == (3, [1, 2], 1)
    assert recent.age_ms == DAY - 1
    assert recent.similarity == pytest.approx(1, abs=1e-6)
    assert (newest.item_id, newest.timestamp_ms) == (5, NOW_MS - MINUTE)
    assert (shown.source, shown.item_id) == (score_pb2.TOKEN_SOURCE_IMPRESSION, 6)
    # Without an embedding nothing is selected by similarity, and none has one.
    assert [(token.item_id, token.similarity) for token in reply.explanations[1].selected] == [(3, 0), (5, 0)]


def test_a_user_nobody_knows_is_scored(node: Node) -> None:
    reply = node.stub.Score(request(3, user="nobody", explain=True))
    assert len(reply.score) == 1
    assert [list(explanation.selected) for explanation in reply.explanations] == [[]]
    assert reply.as_of.applied_offset == -1


def test_explanations_come_when_asked_for(node: Node) -> None:
    node.act(0, (NOW_MS - DAY, 3, 1))
    assert not node.stub.Score(request(3)).explanations


def test_a_given_embedding_counts(node: Node) -> None:
    message = request(99, 98)
    message.embedding = KNOWN[3].tobytes() + bytes(32)
    assert list(node.stub.Score(message).embedding_known) == [True, False]


def test_contributions_come_when_asked_for(node: Node) -> None:
    node.act(0, (NOW_MS - DAY, 3, 1), (NOW_MS - 2 * DAY, 4, 1), (NOW_MS - 3 * DAY, 5, 1))
    answer = node.stub.Score(request(3, explain=True, contributions=2))
    (explanation,) = answer.explanations
    tokens = [token for token in explanation.selected if token.HasField("contribution")]
    assert len(explanation.selected) == 3
    assert len(tokens) == 2
    assert tokens[-1].item_id == 3
    assert any(token.contribution for token in tokens)
    plain = node.stub.Score(request(3, explain=True))
    assert plain.score == answer.score
    assert not any(token.HasField("contribution") for token in plain.explanations[0].selected)


def test_the_time_of_the_request_may_be_given(node: Node) -> None:
    node.act(0, (NOW_MS - DAY, 3, 1))
    reply = node.stub.Score(request(3, explain=True, timestamp_ms=NOW_MS + DAY))
    assert reply.explanations[0].selected[0].age_ms == 2 * DAY


@pytest.mark.parametrize(
    ("timestamp_ms", "unit"),
    [
        (NOW_MS // 1_000, "seconds"),
        ((NOW_MS - 30 * DAY) // 1_000, "seconds"),
        (NOW_MS // 1_000_000, "thousands of seconds"),
        (NOW_MS * 1_000, "microseconds"),
        (NOW_MS * 1_000_000, "nanoseconds"),
    ],
)
def test_a_time_in_another_unit_is_refused(node: Node, timestamp_ms: int, unit: str) -> None:
    node.act(0, (NOW_MS - 40 * DAY, 3, 1), (NOW_MS - MINUTE, 5, 4))
    code, reason, details, message = refusal(node, request(3, timestamp_ms=timestamp_ms))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.FIELD_INVALID)
    assert details["field"] == "context.timestamp_ms"
    assert f"in {unit}" in message


@pytest.mark.parametrize("timestamp_ms", [NOW_MS - 40 * DAY, NOW_MS - 41 * DAY, NOW_MS - DAY, NOW_MS + 300 * DAY, 1])
def test_a_time_in_the_past_or_the_future_is_scored(node: Node, timestamp_ms: int) -> None:
    node.act(0, (NOW_MS - 40 * DAY, 3, 1), (NOW_MS - MINUTE, 5, 4))
    assert len(node.stub.Score(request(3, timestamp_ms=timestamp_ms)).score) == 1


def test_any_time_is_scored_for_a_user_without_events(node: Node) -> None:
    assert len(node.stub.Score(request(3, timestamp_ms=NOW_MS // 1_000)).score) == 1


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (request(1, user=""), Reason.USER_ID_INVALID, "user_id"),
        (request(1, user="ü" * 129), Reason.USER_ID_INVALID, "user_id"),
        (request(1, contributions=2), Reason.FIELD_INVALID, "contributions"),
        (request(1, 2, explain=True, contributions=5), Reason.FIELD_INVALID, "contributions"),
        (request(), Reason.CANDIDATES_INVALID, "item_id"),
        (request(*range(9)), Reason.CANDIDATES_INVALID, "item_id"),
        (request(1, surface=4), Reason.FIELD_INVALID, "context.surface"),
        (request(1, surface=1 << 31), Reason.FIELD_INVALID, "context.surface"),
        (request(1, timestamp_ms=-1), Reason.FIELD_INVALID, "context.timestamp_ms"),
        (request(1, timestamp_ms=1 << 62), Reason.FIELD_INVALID, "context.timestamp_ms"),
        (request(1, min_offset=-1), Reason.FIELD_INVALID, "min_offset"),
    ],
)
def test_what_makes_no_sense_is_refused(
    node: Node, message: score_pb2.ScoreRequest, reason: Reason, field: str
) -> None:
    code, found, metadata, text = refusal(node, message)
    assert (code, found, metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)
    assert any(advice in text for advice in ("give", "send", "correct", "request", "leave them out"))
    assert node.scorer.calls == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x01" * 32, "32 bytes for 2 candidates"),
        (b"\x01" * 63, "63 bytes for 2 candidates"),
        (b"\x01" * 65, "65 bytes for 2 candidates"),
        (b"\x01" * 63 + b"\x80", "that of candidate 1 has a byte of -128"),
    ],
)
def test_an_embedding_that_is_none_is_refused(node: Node, content: bytes, why: str) -> None:
    message = request(1, 2)
    message.embedding = content
    code, reason, metadata, text = refusal(node, message)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.CANDIDATES_INVALID)
    assert metadata["field"] == "embedding"
    assert why in text


def test_a_node_without_a_model_says_so_until_it_has_one(node: Node) -> None:
    node.models._scorer = None
    code, reason, _, text = refusal(node, request(3))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.MODEL_NOT_LOADED)
    assert "train one" in text
    node.models.install(node.scorer)
    assert len(node.stub.Score(request(3)).score) == 1


def test_a_user_of_another_node_is_refused(node: Node) -> None:
    code, reason, metadata, _ = refusal(node, request(3, user="elsewhere"))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, Reason.NOT_OWNER)
    assert metadata["partition"] == "1"


def test_a_read_after_an_offset_waits_for_it(node: Node) -> None:
    answer = node.stub.Score.future(request(3, min_offset=4, explain=True), timeout=20)
    node.act(3)
    assert not answer.done()
    node.act(4, (NOW_MS - DAY, 3, 1))
    reply = answer.result()
    assert reply.as_of.applied_offset == 4
    assert [token.item_id for token in reply.explanations[0].selected] == [3]


def test_an_offset_that_does_not_come_ends_at_the_deadline(node: Node) -> None:
    # The status is the client's own as often as the server's: both are DEADLINE_EXCEEDED.
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as raised:
        node.stub.Score(request(3, min_offset=4), timeout=0.2)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 10
    assert node.scorer.calls == 0


def test_overload_is_refused_and_passes(node: Node) -> None:
    node.scorer.open.clear()
    busy = node.stub.Score.future(request(3), timeout=20)
    assert node.scorer.entered.acquire(timeout=20)
    code, reason, _, text = refusal(node, request(3))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
    assert "retry with exponential back-off" in text
    node.scorer.open.set()
    assert len(busy.result().score) == 1
    assert len(node.stub.Score(request(3)).score) == 1


def test_work_nobody_waits_for_is_not_begun(node: Node) -> None:
    patient = ScorerSettings(max_candidates=8, max_concurrent=1, max_queue_ms=20_000)
    service = ScoreService(
        node.directory, node.models, VOCABULARY, patient, HistoryCache(1 << 20), max_reply_bytes=2_000
    )
    server = grpc.server(futures.ThreadPoolExecutor(4))
    score_pb2_grpc.add_ScoreServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = score_pb2_grpc.ScoreServiceStub(channel)
        node.scorer.open.clear()
        busy = stub.Score.future(request(3), timeout=20)
        assert node.scorer.entered.acquire(timeout=20)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Score(request(3), timeout=0.2)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        node.scorer.open.set()
        busy.result()
        assert len(stub.Score(request(3), timeout=20).score) == 1
        assert node.scorer.calls == 2
    server.stop(None).wait()


def test_a_reply_over_the_limit_is_refused(node: Node) -> None:
    node.act(0, *((NOW_MS - n * DAY, n % 20, 1) for n in range(1, 40)))
    message = request(*range(8), explain=True)
    code, reason, metadata, _ = refusal(node, message)
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.REPLY_TOO_LARGE)
    assert metadata["limit"] == "2000"
    message.explain = False
    assert node.stub.Score(message).ByteSize() < 2_000


def test_waiting_and_scoring_are_timed_apart(node: Node) -> None:
    class Times:
        def __init__(self) -> None:
            self.queue: list[float] = []
            self.seconds: list[tuple[float, int]] = []

        def record_wait(self, seconds: float) -> None:
            self.queue.append(seconds)

        def record_scoring(self, seconds: float, candidates: int) -> None:
            self.seconds.append((seconds, candidates))

    times = Times()
    service = ScoreService(
        node.directory,
        node.models,
        VOCABULARY,
        SETTINGS,
        HistoryCache(1 << 20),
        max_reply_bytes=2_000,
        sinks=CallSinks(timings=times),
    )
    server = grpc.server(futures.ThreadPoolExecutor(4))
    score_pb2_grpc.add_ScoreServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = score_pb2_grpc.ScoreServiceStub(channel)
            stub.Score(request(3, 4), timeout=20)
            node.scorer.open.clear()
            first = stub.Score.future(request(3), timeout=20)
            assert node.scorer.entered.acquire(timeout=10)
            assert node.scorer.entered.acquire(timeout=10)
            with pytest.raises(grpc.RpcError):
                stub.Score(request(3), timeout=20)
            node.scorer.open.set()
            first.result()
    finally:
        node.scorer.open.set()
        server.stop(None).wait()
    # One in vain, for as long as may be waited.
    assert len(times.queue) == 3
    assert max(times.queue) >= SETTINGS.max_queue_ms / 1000 > min(times.queue)
    assert [candidates for _, candidates in times.seconds] == [2, 1]
    assert times.seconds[1][0] >= SETTINGS.max_queue_ms / 1000
