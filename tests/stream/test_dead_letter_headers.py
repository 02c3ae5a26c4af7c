import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.stream.dead_letter_headers import Headers, Origin, origin_of, own_headers, retries_of

CONNECT: Headers = [
    ("__connect.errors.topic", b"orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"70000000000"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", "größer".encode()),
]
STREAMS: Headers = [
    ("__streams.errors.exception", b"org.apache.kafka.streams.errors.StreamsException"),
    ("__streams.errors.stacktrace", b"at ..."),
    ("__streams.errors.message", b"no"),
    ("__streams.errors.topic", b"orders"),
    ("__streams.errors.partition", b"3"),
    ("__streams.errors.offset", b"5"),
]
SPRING: Headers = [
    ("kafka_dlt-original-topic", b"orders"),
    ("kafka_dlt-original-partition", struct.pack(">i", 3)),
    ("kafka_dlt-original-offset", struct.pack(">q", 70_000_000_000)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 5)),
    ("kafka_dlt-exception-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", b"no"),
]


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        (
            [*CONNECT, ("lifeline.reason", b"undecodable")],
            Origin("lifeline", "orders", 3, 70_000_000_000, "undecodable", "größer"),
        ),
        (
            CONNECT,
            Origin("connect", "orders", 3, 70_000_000_000, "org.apache.kafka.connect.errors.DataException", "größer"),
        ),
        (STREAMS, Origin("streams", "orders", 3, 5, "org.apache.kafka.streams.errors.StreamsException", "no")),
        (SPRING, Origin("spring", "orders", 3, 70_000_000_000, "java.lang.IllegalStateException", "no")),
        ([("trace", b"1"), ("x", None)], None),
        ([], None),
    ],
)
def test_each_system_s_headers_say_where_a_letter_comes_from(headers: Headers, origin: Origin | None) -> None:
    assert origin_of([("trace", b"\xff"), *headers]) == origin
    assert own_headers([("trace", b"\xff"), ("none", None), *headers])[:2] == [("trace", b"\xff"), ("none", None)]


def test_the_newest_failure_counts() -> None:
    again = [*CONNECT, ("lifeline.reason", b"undecodable"), ("__connect.errors.offset", b"9")]
    found = origin_of([*again, ("lifeline.reason", b"misrouted")])
    assert found is not None
    assert (found.offset, found.reason) == (9, "misrouted")


def test_a_record_s_own_headers_are_what_no_system_added() -> None:
    own: Headers = [("trace", b"1"), ("trace", None), ("kafka_other", b"")]
    assert (
        own_headers([*own, *CONNECT, *STREAMS, *SPRING, ("lifeline.reason", b"x"), ("lifeline.retries", b"2")]) == own
    )


@pytest.mark.parametrize(("value", "count"), [(b"2", 2), (b"", 0), (b"x", 0), (b"-4", 0), (None, 0)])
def test_retries_are_counted_where_they_are_a_number(value: bytes | None, count: int) -> None:
    assert retries_of([("lifeline.retries", value)]) == count
    assert retries_of([]) == 0


@given(st.lists(st.tuples(st.sampled_from([name for name, _ in [*CONNECT, *STREAMS, *SPRING]]), st.binary(max_size=9))))
def test_no_bytes_of_a_known_header_are_an_error(headers: list[tuple[str, bytes]]) -> None:
    found = origin_of([*headers, *SPRING[:1]])
    assert found is not None
    assert own_headers(headers) == []
