"""Malformed requests on every method: random bytes, mutated messages, bombs, metadata, resets, cancelled calls."""

import random
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.hostile.child import Control
from benchmarks.hostile.frame import (
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OPENING,
    RST_STREAM,
    call_headers,
    frame,
    message,
)
from benchmarks.hostile.mutation import fill_message, mutate
from benchmarks.hostile.pace import paced
from benchmarks.hostile.target import Target, hostile_user
from lifeline.core.metadata import FORWARDED
from lifeline.core.security import DIRECT
from lifeline.v1 import model_pb2, operator_pb2, score_pb2, sequence_pb2

CALLS_PER_S: Final = 100
BOMB_EVERY: Final = CALLS_PER_S
RESETS_EVERY: Final = CALLS_PER_S
RESETS: Final = 100
"""Streams that one write opens and resets."""
BOMB_NUMBERS: Final = 4_000_000
"""One-byte numbers in a packed field: below the node's message limit of 4 MiB, and 4 KB compressed."""
CONNECTIONS: Final = 4
_MAX_IN_FLIGHT: Final = 64
_TIMEOUT_S: Final = 5.0
_SOCKET_S: Final = 2.0
_FILES: Final[tuple[FileDescriptor, ...]] = (
    sequence_pb2.DESCRIPTOR,
    score_pb2.DESCRIPTOR,
    operator_pb2.DESCRIPTOR,
    model_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)
_UNKNOWN: Final = (
    "/lifeline.v1.SequenceService/DropEverything",
    "/lifeline.v2.SequenceService/GetSequence",
    "/",
    "//",
    "/" + "a" * 4_000,
)
_ENCODINGS: Final = ("gzip", "deflate", "br", "identity", "", "gzip,gzip")
_READ: Final = "/lifeline.v1.SequenceService/GetSequence"
_SCORE: Final = "/lifeline.v1.ScoreService/Score"
_SNAPSHOT: Final = "/lifeline.v1.OperatorService/CreateSnapshot"


def methods() -> dict[str, MethodDescriptor]:
    """Return every method of a node, by path."""
    return {
        f"/{service.full_name}/{method.name}": method
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }


def number_bombs() -> dict[str, bytes]:
    """Return requests with `BOMB_NUMBERS` one-byte numbers, by the method's path and field."""

    def packed(tag: int, number: int) -> bytes:
        length, left = bytearray(), BOMB_NUMBERS
        while left > 0x7F:
            length.append(left & 0x7F | 0x80)
            left >>= 7
        return bytes([tag << 3 | 2]) + bytes([*length, left]) + bytes([number]) * BOMB_NUMBERS

    return {
        f"{_READ} kinds": packed(2, 1),
        f"{_READ} action_types": packed(6, 1),
        f"{_READ} columns": packed(7, 1),
        f"{_SCORE} item_id": packed(2, 0),
        f"{_SCORE} embedding": packed(3, 0),
        f"{_SNAPSHOT} partitions": packed(1, 0),
    }


class OddRequest(NamedTuple):
    """One malformed or unusual request."""

    path: str
    request: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    gzip: bool = False
    streams: bool = False
    """Whether the method is client-streaming."""
    answer_streams: bool = False


def odd_request(rng: random.Random, known: dict[str, MethodDescriptor]) -> OddRequest:
    """Return a random malformed request, or a valid but unusual one."""
    path, method = rng.choice(list(known.items()))
    request = fill_message(rng, GetMessageClass(method.input_type)).SerializeToString()
    match rng.randrange(4):
        case 0:
            request = rng.randbytes(rng.choice((1, 10, 100, 10_000)))
        case 1 if request:
            request = mutate(rng, request)
    if rng.random() < 0.05:
        path = rng.choice(_UNKNOWN)
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    if rng.random() < 0.3:
        metadata = rng.choice(
            (
                (("authorization", "Bearer " + "x" * 2_000),),
                (("authorization", "Basic é".encode().decode("latin-1").encode("ascii", "ignore").decode()),),
                ((FORWARDED, "127.0.0.1:1"),),
                ((FORWARDED, ""), (FORWARDED, "x")),
                (("x-bin", rng.randbytes(3_000)),),
                tuple((f"x-{n}", "y") for n in range(200)),
                (("x-large", "z" * 12_000),),
                (("x-too-large", "z" * 100_000),),
            )
        )
    return OddRequest(path, request, metadata, rng.random() < 0.2, method.client_streaming, method.server_streaming)


def make_calls(target: Target, control: Control) -> Counter[str]:
    """Call until the end; return how many calls ended with each status."""
    rng, known, bombs = random.Random(15), methods(), list(number_bombs().items())
    done: Counter[str] = Counter()
    slots = threading.BoundedSemaphore(_MAX_IN_FLIGHT)
    # Different options, because channels with the same options share one connection.
    options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    channels = [
        grpc.insecure_channel(target.grpc_address, [*DIRECT, *options, ("lifeline.connection", number)])
        for number in range(CONNECTIONS)
    ]
    control.begin()
    for number in paced(CALLS_PER_S, control):
        channel = channels[number % CONNECTIONS]
        if number % RESETS_EVERY == RESETS_EVERY // 2:
            done[_raw(rng, target)] += 1
        elif number % BOMB_EVERY == BOMB_EVERY - 1:
            name, bomb = bombs[number // BOMB_EVERY % len(bombs)]
            _send(channel, OddRequest(name.partition(" ")[0], bomb, gzip=True), slots, done, cancel=False)
        else:
            _send(channel, odd_request(rng, known), slots, done, cancel=rng.random() < 0.1)
    for channel in channels:
        channel.close()
    return done


def _send(
    channel: grpc.Channel, odd: OddRequest, slots: threading.BoundedSemaphore, done: Counter[str], *, cancel: bool
) -> None:
    if not slots.acquire(timeout=_TIMEOUT_S):
        done["not sent: too many in flight"] += 1
        return
    make: Any = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[odd.streams, odd.answer_streams]
    stub = make(odd.path)
    more = {
        "timeout": _TIMEOUT_S,
        "metadata": odd.metadata,
        "compression": grpc.Compression.Gzip if odd.gzip else None,
    }
    request = iter([odd.request]) if odd.streams else odd.request
    try:
        call = stub(request, **more) if odd.answer_streams else stub.future(request, **more)
    except (ValueError, grpc.RpcError) as error:
        slots.release()
        done[f"not sent: {type(error).__name__}"] += 1
        return

    def ended() -> None:
        slots.release()
        done[call.code().name if call.code() is not None else "none"] += 1

    if not call.add_callback(ended):
        ended()
    if cancel:
        call.cancel()


def _raw(rng: random.Random, target: Target) -> str:
    """Send malformed frames, and return their name."""
    host, _, port = target.grpc_address.rpartition(":")
    name = rng.choice(("rapid resets", "a wrong encoding", "a length that lies", "garbage", "HTTP/1"))
    block = call_headers(_READ, target.grpc_address)
    opened = frame(HEADERS, END_HEADERS, 1, block)
    user = sequence_pb2.GetSequenceRequest(user_id=hostile_user(0)).SerializeToString()
    match name:
        case "rapid resets":
            sent = OPENING + b"".join(
                frame(HEADERS, END_HEADERS, stream, block)
                + frame(DATA, END_STREAM, stream, message(user))
                + frame(RST_STREAM, 0, stream, CANCEL)
                for stream in range(1, 2 * RESETS, 2)
            )
        case "a wrong encoding":
            block = call_headers(_READ, target.grpc_address, ("grpc-encoding", rng.choice(_ENCODINGS)))
            body = message(rng.randbytes(100), compressed=True)
            sent = OPENING + frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, body)
        case "a length that lies":
            length = rng.choice(((1 << 32) - 1, 1 << 31, 1))
            sent = OPENING + opened + frame(DATA, rng.choice((0, END_STREAM)), 1, message(user, length=length))
        case "garbage":
            sent = OPENING + rng.randbytes(10_000)
        case _:
            sent = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    with suppress(OSError), socket.create_connection((host, int(port)), _SOCKET_S) as connection:
        connection.sendall(sent)
        connection.settimeout(0.1)
        connection.recv(1 << 16)
    return name
