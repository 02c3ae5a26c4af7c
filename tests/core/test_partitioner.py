import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from lifeline.core.partitioner import murmur2, partition_of, partitions_of


@pytest.mark.parametrize(
    ("key", "partition"),
    [(b"", 681), (b"a", 524), (b"ab", 434), (b"abc", 107), (b"123456789", 566), (b"\x00 ", 742)],
)
def test_vectors_that_the_java_client_gives(key: bytes, partition: int) -> None:
    assert partition_of(key, 1000) == partition


@given(st.binary(max_size=300))
def test_the_hash_is_the_one_of_the_client_library(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key)


@given(st.lists(st.binary(max_size=40), max_size=50), st.integers(1, 1000))
def test_columns_agree_with_one_key_at_a_time(keys: list[bytes], partitions: int) -> None:
    got = partitions_of(keys, partitions)
    assert got.dtype == np.int32
    assert got.tolist() == [partition_of(key, partitions) for key in keys]


def test_keys_that_end_in_zero_bytes_and_keys_of_every_length() -> None:
    keys = [bytes(range(n)) + b"\x00" * zeros for n in range(9) for zeros in range(9)]
    assert partitions_of(keys, 97).tolist() == [partition_of(key, 97) for key in keys]
