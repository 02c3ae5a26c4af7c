"""The client library: a user's sequences and scores over gRPC, as NumPy columns.

    with LifelineClient("127.0.0.1:50051") as client:
        newest = client.get_sequence("user1", SequenceQuery(newest=10)).sequences[Kind.EXPLICIT]
        ranked = client.score("user1", [item_a, item_b]).score.argsort()[::-1]

The bare package is enough for it. A client is safe in threads: share one.

In a cluster each node holds some of the partitions. Give the client the address of any node: that node forwards a call
to the owner, or replies with the owner's address. The client caches partition ownership and then calls the owner
directly. Where a node refuses or is unreachable, the client tries the other nodes, with growing pauses between the
rounds, until the call's one deadline; so a rolling restart shows as a slower reply. Reads and scores change nothing,
so it is safe to repeat them. Snapshots are requested once, from the first address.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from lifeline.client.connection import NodeConnection, Reply
from lifeline.client.errors import LifelineError
from lifeline.client.ownership import OwnershipCache
from lifeline.client.replies import ModelInfo, PartitionList, PartitionSnapshot, Scores, unpack_sequences
from lifeline.client.score_parts import CandidateLimit, join_scores
from lifeline.core.embedding_codec import quantize
from lifeline.core.item_ids import exact_item_ids
from lifeline.core.metadata import OWNER, PARTITIONS
from lifeline.core.security import INSECURE, CallSecurity
from lifeline.core.sequence import EMBEDDING_DIM, SequenceQuery, UserSequences
from lifeline.core.wire import WIRE_COLUMNS, WIRE_KINDS
from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2

SNAPSHOT_TIMEOUT_S = 3_600.0

_backoff = wait_random_exponential(multiplier=0.02, max=0.5)

_UserReply = TypeVar("_UserReply", sequence_pb2.GetSequenceResponse, score_pb2.ScoreResponse)


@dataclass(slots=True)
class LifelineClient:
    """Connections to one node or several.

    `timeout_s` bounds every call that has no timeout of its own, including all attempts and the wait for `min_offset`.
    Every call raises LifelineError when it fails; without `retry`, after the first attempt.
    """

    addresses: str | Sequence[str]
    """host:port, or several; comma separated in a string."""
    timeout_s: float = 5.0
    security: CallSecurity = INSECURE
    """TLS and the bearer token: `CallSecurity.of(SecuritySettings(ca=..., token=...))`.

    A token that would leave the machine unencrypted raises SecurityError before anything is sent."""
    retry: bool = True
    follow: bool = True
    """Whether to call owners at the addresses that nodes report; if False, the nodes must forward.

    With a token the client calls only addresses that `CallSecurity.trusts`: nodes pass on what members of their group
    advertise."""
    _configured: list[str] = field(init=False, repr=False)
    _nodes: dict[str, NodeConnection] = field(init=False, repr=False)
    _owners: OwnershipCache = field(init=False, repr=False)
    _candidates: CandidateLimit = field(init=False, repr=False, default_factory=CandidateLimit)
    _lock: threading.Lock = field(init=False, repr=False)

    def __post_init__(self) -> None:
        listed = self.addresses.split(",") if isinstance(self.addresses, str) else self.addresses
        addresses = list(dict.fromkeys(address.strip() for address in listed if address.strip()))
        if not addresses:
            raise ValueError("there is no address: give the host:port of at least one node")
        self._configured, self._owners, self._lock = addresses, OwnershipCache(), threading.Lock()
        self._nodes = {address: NodeConnection(address, self.security) for address in addresses}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        with self._lock:
            nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            node.close()

    def get_sequence(
        self,
        user_id: str,
        query: SequenceQuery | None = None,
        *,
        min_offset: int | None = None,
        timeout_s: float | None = None,
    ) -> UserSequences:
        """Return the user's sequences, oldest event first; without a query the whole explicit sequence.

        With `min_offset`, the offset of an acknowledged record, the reply includes that record. The arrays are
        read-only.
        """
        query = query or SequenceQuery()
        if query.newest is not None and query.newest < 1:
            raise ValueError(f"newest is {query.newest}: ask for at least one event, or None for all")
        request = sequence_pb2.GetSequenceRequest(
            user_id=user_id,
            kinds=[WIRE_KINDS[kind] for kind in query.kinds],
            newest=query.newest or 0,
            from_timestamp_ms=query.from_timestamp_ms,
            to_timestamp_ms=query.to_timestamp_ms,
            action_types=sorted(query.action_types),
            columns=[wire for column, wire in WIRE_COLUMNS.items() if column in query.columns],
            min_offset=min_offset,
        )
        reply = self._call_owner(user_id, lambda node: node.sequences.GetSequence, request, timeout_s)
        return unpack_sequences(reply, query.columns)

    def score(
        self,
        user_id: str,
        candidates: Sequence[int] | NDArray[Any],
        *,
        embeddings: Mapping[int, NDArray[np.int8] | NDArray[np.floating[Any]]] | None = None,
        timestamp_ms: int | None = None,
        surface: int = 0,
        min_offset: int | None = None,
        explain: int | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Return the candidates' scores on the user's current history.

        `candidates` are exact integers, as many as you like: more than a node takes in one request
        (``scorer.max_candidates``) are sent in several, within the one deadline, and scored by one model version.
        `embeddings` gives int8[32], or float[32] to be quantized, for items that the node's embedding table may lack.
        `timestamp_ms` is the time of the request, the node's current time by default. `min_offset` is as in
        `get_sequence`. With `explain` the reply has each candidate's tokens, and the contributions of the `explain`
        most similar ones (0: no contributions). Raises ValueError for a candidate that is no exact integer.
        """
        item_id = exact_item_ids(candidates)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s

        def score_part(part: NDArray[np.uint64], offset: int | None) -> Scores:
            request = score_pb2.ScoreRequest(
                user_id=user_id,
                item_id=part.tolist(),
                embedding=_pack_embeddings(part, embeddings) if embeddings else b"",
                context=score_pb2.ScoreContext(timestamp_ms=timestamp_ms, surface=surface),
                min_offset=offset,
                explain=explain is not None,
                contributions=explain or 0,
            )
            left_s = max(0.0, deadline - time.monotonic())
            return Scores.of(self._call_owner(user_id, lambda node: node.scores.Score, request, left_s), part)

        while True:
            parts = [item_id[part] for part in self._candidates.parts(len(item_id), explain or 0)]
            if len(parts) > 1 and timestamp_ms is None:
                # One request has one time.
                timestamp_ms = int(time.time() * 1000)
            try:
                return _score_alike(parts, score_part, min_offset)
            except LifelineError as error:
                if not self._candidates.learn(error):
                    raise

    def create_snapshot(
        self, partitions: Sequence[int] = (), *, timeout_s: float = SNAPSHOT_TIMEOUT_S
    ) -> list[PartitionSnapshot]:
        """Have the first node copy partitions to its configured repository; by default all that it serves.

        Returns when every copy is complete, partitions ascending. It takes as long as the upload of the new files.
        """
        request = operator_pb2.CreateSnapshotRequest(partitions=partitions)
        reply = self._call_first(lambda node: node.operators.CreateSnapshot, request, timeout_s)
        return [PartitionSnapshot.of(snapshot) for snapshot in reply.snapshots]

    def get_model(self, *, timeout_s: float | None = None) -> ModelInfo:
        """Return the model version that the first node uses, and the versions that it has."""
        reply = self._call_first(lambda node: node.models.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return ModelInfo.of(reply)

    def use_model(self, version: str = "", *, timeout_s: float | None = None) -> tuple[str, str]:
        """Have the first node use a model version, the newest by default.

        Returns the version that it uses now, and the previous one, which is empty where there was none.
        """
        request = model_pb2.UseModelRequest(version=version)
        reply = self._call_first(lambda node: node.models.UseModel, request, timeout_s)
        return reply.model.version, reply.previous.version

    def list_partitions(self, *, timeout_s: float | None = None) -> PartitionList:
        """Return the partitions that the first node holds, and where it believes every partition to be."""
        request = operator_pb2.ListPartitionsRequest()
        return PartitionList.of(self._call_first(lambda node: node.operators.ListPartitions, request, timeout_s))

    def list_fingerprints(self, partition: int, *, timeout_s: float | None = None) -> list[tuple[int, int]]:
        """Return (offset, fingerprint of everything below it) for a partition that the first node holds."""
        request = operator_pb2.ListFingerprintsRequest(partition=partition)
        reply = self._call_first(lambda node: node.operators.ListFingerprints, request, timeout_s)
        return [(entry.offset, int(entry.fingerprint, 16)) for entry in reply.fingerprints]

    def _call_first(
        self,
        method: "Callable[[NodeConnection], grpc.UnaryUnaryMultiCallable[Any, Reply]]",
        request: Message,
        timeout_s: float | None,
    ) -> Reply:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        return self._node(self._configured[0]).call(method, request, limit_s)[0]

    def _call_owner(
        self,
        user_id: str,
        method: "Callable[[NodeConnection], grpc.UnaryUnaryMultiCallable[Any, _UserReply]]",
        request: Message,
        timeout_s: float | None,
    ) -> _UserReply:
        """Call the owner of the user's partition; try again, here or at other nodes, until the deadline."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        address = self._first_address(user_id)
        if not self.retry:
            return self._node(address).call(method, request, limit_s)[0]
        tried: set[str] = set()
        refusal: LifelineError | None = None

        def pause_s(state: RetryCallState) -> float:
            # Another node may own the partition now; waiting helps only after all nodes have been tried.
            if tried:
                return 0.0
            error = state.outcome.exception() if state.outcome else None
            recommended_s = error.retry_after_s if isinstance(error, LifelineError) else 0.0
            # Jitter: clients must not retry all at the same moment.
            return _backoff(state) + recommended_s * random.uniform(0.8, 1.2)  # noqa: S311

        for attempt in Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, LifelineError) and error.may_pass),
            wait=pause_s,
            stop=stop_before_delay(limit_s),
            reraise=True,
        ):
            with attempt:
                left_s = max(0.0, deadline - time.monotonic())
                number = attempt.retry_state.attempt_number
                try:
                    reply, metadata = self._node(address).call(method, request, left_s, number)
                except LifelineError as error:
                    if error.reason:
                        refusal = error
                    elif refusal is not None and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                        # Time ran out during the last attempt; an earlier node's refusal says why.
                        raise refusal from error
                    address = self._next_address(address, user_id, error, tried)
                    raise
                self._owners.store(user_id, metadata.get(OWNER) or address, metadata.get(PARTITIONS, ""))
                return reply
        raise AssertionError("the loop returns or raises")

    def _first_address(self, user_id: str) -> str:
        """Return the owner's address if it is cached and reachable, else a random configured one."""
        owner = self._owners.owner_of(user_id)
        if owner in self._configured:
            return owner
        if owner is not None and self._may_follow(owner):
            # An address that a node reported may not be reachable from here: use it only once it is connected.
            node = self._node(owner)
            node.watch()
            if node.is_connected:
                return owner
        return random.choice(self._configured)  # noqa: S311 - spreads load

    def _next_address(self, address: str, user_id: str, error: LifelineError, tried: set[str]) -> str:
        """Return the address to try after a failure; empties `tried` once every configured address is in it."""
        tried.add(address)
        if error.reason == "NOT_OWNER":
            reported = error.metadata.get("owner", "")
            owner = reported if reported in self._configured or self._may_follow(reported) else ""
            self._owners.store(user_id, owner, error.metadata.get("partitions", ""))
            if owner and owner not in tried:
                return owner
        start = self._configured.index(address) + 1 if address in self._configured else 0
        ring = self._configured[start:] + self._configured[:start]
        left = [candidate for candidate in ring if candidate not in tried]
        if not left:
            tried.clear()
        return left[0] if left else ring[0]

    def _may_follow(self, address: str) -> bool:
        """Return whether the client may call an address that a node reported."""
        return self.follow and (self.security.token is None or self.security.trusts(address))

    def _node(self, address: str) -> NodeConnection:
        with self._lock:
            if not self._nodes:
                raise ValueError("the client is closed: create another one")
            if address not in self._nodes:
                self._nodes[address] = NodeConnection(address, self.security)
            return self._nodes[address]


def _score_alike(
    parts: Sequence[NDArray[np.uint64]],
    score_part: Callable[[NDArray[np.uint64], int | None], Scores],
    min_offset: int | None,
) -> Scores:
    """Score all parts by one model version; a part is scored again where the node has changed its model meanwhile."""
    scores: dict[int, Scores] = {}
    version = None
    while stale := [at for at in range(len(parts)) if at not in scores or scores[at].version != version]:
        at = stale[0]
        scores[at] = reply = score_part(parts[at], min_offset)
        version = reply.version
        if reply.as_of.applied_offset >= 0:
            # Another node may answer the next part: its history must not be older.
            min_offset = max(reply.as_of.applied_offset, -1 if min_offset is None else min_offset)
    return join_scores([scores[at] for at in range(len(parts))])


def _pack_embeddings(
    item_id: NDArray[np.uint64], embeddings: Mapping[int, NDArray[np.int8] | NDArray[np.floating[Any]]]
) -> bytes:
    """Return int8[c, 32] in the wire format: zeros for candidates without an embedding."""
    rows = np.zeros((len(item_id), EMBEDDING_DIM), np.int8)
    for row, item in enumerate(item_id.tolist()):
        embedding = embeddings.get(item)
        if embedding is None:
            continue
        is_number = embedding.dtype == np.int8 or np.issubdtype(embedding.dtype, np.floating)
        if not is_number or embedding.shape != (EMBEDDING_DIM,):
            raise ValueError(
                f"the embedding of item {item} is {embedding.dtype}{list(embedding.shape)}: give int8[{EMBEDDING_DIM}] "
                f"or float[{EMBEDDING_DIM}]"
            )
        try:
            rows[row] = embedding if embedding.dtype == np.int8 else quantize(embedding)
        except ValueError as error:
            raise ValueError(f"item {item}: {error}") from error
    return rows.tobytes()
