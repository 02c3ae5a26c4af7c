"""Requests that no client of ours sends, to every method of a server: each ends in a known status, and costs little.

The methods are those that the server itself lists, and the payloads are made from their descriptors, so that a new
method or field is covered as it is. The costs are processor time of the whole process, the sender's included.
"""

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from lifeline.rpc.server import SERVICES
from lifeline.rpc.settings import NodeSettings
from lifeline.v1 import score_pb2
from tests.support.refusals import info_of
from tests.support.serving import ADDRESS, ELSEWHERE, Node, node_at

LIMIT = 4 << 20
"""Of gRPC's own, in bytes of a request after it is unpacked."""
COST_S = 0.15
"""A call may cost so much whatever it has in it: a snapshot, or the scores of 512 candidates."""
COST_PER_BYTE_S = 20e-9
ROUNDS, LONG_ROUNDS = 40, 10_000
EXPECTED = {
    "OK",
    "INVALID_ARGUMENT",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
}
ODD_TEXTS = (
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"\xf4\x90\x80\x80",
    b"a\x00b",
    b"../../etc/passwd",
    b"\xe2\x80\xae",
    "e\u0301".encode(),
    b"%s%n{0}",
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings = NodeSettings(grpc_address=ADDRESS, max_wait_ms=20)
    with node_at(tmp_path_factory.mktemp("node"), settings) as running:
        yield running


@pytest.fixture(scope="module")
def channel(node: Node) -> Iterator[grpc.Channel]:
    options = (("grpc.max_send_message_length", -1),)
    with grpc.insecure_channel(node.address, options) as opened:
        # The first calls compile and allocate.
        request = score_pb2.ScoreRequest(user_id="ann", item_id=range(512), explain=True, contributions=1)
        for _ in range(2):
            send(opened, method("lifeline.v1.ScoreService.Score"), request.SerializeToString())
        yield opened


def method(name: str) -> MethodDescriptor:
    return descriptor_pool.Default().FindMethodByName(name)


def methods(channel: grpc.Channel) -> list[MethodDescriptor]:
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {*SERVICES, health.SERVICE_NAME} < set(services)
    pool = descriptor_pool.Default()
    every = [method for name in sorted(services) for method in pool.FindServiceByName(name).methods]
    # Health's List is in its descriptor and not served.
    return [method for method in every if method.full_name != f"{health.SERVICE_NAME}.List"]


def send(
    channel: grpc.Channel, to: MethodDescriptor, payload: bytes, compression: grpc.Compression | None = None
) -> str:
    """Make one call with these bytes, and return its status; assert that a refusal says why."""
    path = f"/{to.containing_service.full_name}/{to.name}"
    how: dict[str, Any] = {"timeout": 30, "compression": compression}
    try:
        if to.client_streaming:
            for _ in channel.stream_stream(path, None, None)(iter([payload]), **how):
                pass
        elif to.server_streaming:
            # It goes on for ever.
            answers: Any = channel.unary_stream(path, None, None)(payload, **how)
            next(answers)
            answers.cancel()
        else:
            channel.unary_unary(path, None, None)(payload, **how)
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        name = call.code().name
        if to.containing_service.full_name == health.SERVICE_NAME and name == "NOT_FOUND":
            # The health protocol's own answer.
            return name
        if name == "RESOURCE_EXHAUSTED" and "larger than max" in (call.details() or ""):
            return name
        if name not in EXPECTED or info_of(error).domain != "lifeline":
            pytest.fail(f"{to.full_name}: {name}: {call.details()}")
        return name
    return "OK"


def check(
    channel: grpc.Channel, to: MethodDescriptor, payload: bytes, compression: grpc.Compression | None = None
) -> str:
    """Send a payload, and assert that it costs no more than it may."""
    budget = COST_S + COST_PER_BYTE_S * len(payload)
    costs = []
    for _ in range(3):
        begun = time.process_time()
        status = send(channel, to, payload, compression)
        costs.append(time.process_time() - begun)
        if costs[-1] <= budget:
            return status
        # Other threads of the process have work at times.
    pytest.fail(f"{to.full_name}: {len(payload):,} bytes cost {min(costs):.3f} s, and {budget:.3f} s is the budget")


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def long(number: int, content: bytes) -> bytes:
    return tag(number, 2) + varint(len(content)) + content


def fill_message(unit: bytes, size: int = LIMIT // 4) -> bytes:
    return unit * (size // len(unit))


def bombs(of: Descriptor | None) -> Iterator[bytes]:
    """Yield payloads of a megabyte, most of them within gRPC's own limit."""
    for field in of.fields if of else ():
        number = field.number
        match field.type:
            case FieldDescriptor.TYPE_STRING | FieldDescriptor.TYPE_BYTES:
                yield long(number, fill_message(b"a"))
                yield fill_message(long(number, b""))
            case FieldDescriptor.TYPE_MESSAGE:
                yield fill_message(long(number, b""))
                # Unpacked it is nested a thousand times.
                inner = b""
                for _ in range(1_000):
                    inner = long(number, inner)
                yield inner
                for below in itertools.islice(bombs(field.message_type), 2):
                    yield long(number, below)
            case _:
                # A packed array, and one entry after another: of a field that is not repeated too.
                yield long(number, fill_message(b"\x01"))
                yield long(number, fill_message(b"\xff" * 9 + b"\x01"))
                yield fill_message(tag(number, 0) + b"\x01")
                yield fill_message(tag(number, 1) + bytes(8))
    unknown = 19
    yield fill_message(tag(unknown, 0) + b"\x01")
    yield fill_message(long(unknown, b""))
    yield long(unknown, fill_message(b"\x00"))
    # Groups: opened and never closed, and opened and closed.
    yield fill_message(tag(unknown, 3))
    yield fill_message(tag(unknown, 3) + tag(unknown, 4))
    yield fill_message(b"\xff")
    yield fill_message(b"\x00")
    yield bytes(LIMIT + 1)


def number_of(field: FieldDescriptor, rng: random.Random) -> Any:
    unsigned = field.cpp_type in {FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64}
    bits = 64 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64} else 32
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    low, high = (0, (1 << bits) - 1) if unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return rng.choice((0, 1, 3, 64, 65, 255, 256, low, high, rng.randint(low, high)))


def sensible(of: Descriptor | None, rng: random.Random) -> Any:
    """Return a message of values that a handler may well take."""
    assert of is not None
    message = GetMessageClass(of)()
    for field in of.fields:
        if rng.random() < 0.4:
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(sensible(field.message_type, rng))
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(
                message, field.name, rng.choice(("ann", ELSEWHERE, "nobody", "x" * rng.randint(1, 300), "\U0001f600"))
            )
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(message, field.name, rng.randbytes(rng.choice((0, 32, 64, 100))))
        elif field.is_repeated:
            getattr(message, field.name).extend(number_of(field, rng) for _ in range(rng.randint(0, 5)))
        else:
            setattr(message, field.name, number_of(field, rng))
    return message


def mutate(payload: bytes, rng: random.Random) -> bytes:
    """Return the payload with a few bytes changed, cut out or put twice."""
    changed = bytearray(payload or b"\x00")
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                changed += changed[at : at + 32]
            case _:
                del changed[at + 1 : at + rng.randint(1, 8)]
    return bytes(changed)


def test_no_request_costs_more_than_its_bytes(channel: grpc.Channel) -> None:
    refused = 0
    for to in methods(channel):
        for payload in bombs(to.input_type):
            refused += check(channel, to, payload) != "OK"
    assert refused > 50


def test_no_request_that_is_small_on_the_wire_costs_more(channel: grpc.Channel) -> None:
    for to in methods(channel):
        # Four million entries in 4 KB, of a field that may have several, if there is one.
        numbers = [field.number for field in to.input_type.fields if field.is_repeated]
        packed = long(next(iter(numbers), 1), fill_message(b"\x01", LIMIT - 64))
        assert check(channel, to, packed, grpc.Compression.Gzip) == "RESOURCE_EXHAUSTED"


def test_a_bomb_that_gzip_unpacks_is_stopped_by_grpc(channel: grpc.Channel) -> None:
    # 16 KB on the wire. What the library says of its own limit has no ErrorInfo.
    name = "lifeline.v1.SequenceService.GetSequence"
    begun = time.process_time()
    assert send(channel, method(name), bytes(4 * LIMIT), grpc.Compression.Gzip) == "RESOURCE_EXHAUSTED"
    assert time.process_time() - begun < 2


def test_every_call_ends_in_a_known_status(channel: grpc.Channel, first_seed: int, is_long: bool) -> None:
    seen: set[str] = set()
    for to in methods(channel):
        rng = random.Random(f"{first_seed} {to.full_name}")
        for field in to.input_type.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                seen.update(check(channel, to, long(field.number, text)) for text in ODD_TEXTS)
        for _ in range(LONG_ROUNDS if is_long else ROUNDS):
            payload = sensible(to.input_type, rng).SerializeToString()
            seen.add(check(channel, to, payload))
            seen.add(check(channel, to, mutate(payload, rng)))
            seen.add(check(channel, to, rng.randbytes(rng.randint(1, 64))))
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= seen
