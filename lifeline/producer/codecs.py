"""Gives kafka-python the codecs snappy, lz4 and zstd, by way of cramjam.

kafka-python looks for a package of its own for each codec, and refuses the codec without it. cramjam has all three, and
nodes read with it. A codec whose package is installed stays as it is.
"""

import io
from types import SimpleNamespace

import cramjam
from kafka import codec
from kafka.record import default_records, legacy_records

_LZ4_LEVEL = 1
_ZSTD_LEVEL = 3


class _ZstdCompressor:
    """The part of ``zstandard.ZstdCompressor`` that kafka-python calls."""

    def compress(self, data: bytes) -> bytes:
        return bytes(cramjam.zstd.compress(bytes(data), level=_ZSTD_LEVEL))


class _ZstdDecompressor:
    """The part of ``zstandard.ZstdDecompressor`` that kafka-python calls."""

    def stream_reader(self, source: io.BytesIO, *, read_across_frames: bool) -> io.BytesIO:  # noqa: ARG002 - theirs
        return io.BytesIO(bytes(cramjam.zstd.decompress(source.read())))


def _lz4_encode(data: bytes) -> bytes:
    # Brokers refuse blocks that depend on each other.
    compressor = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
    compressor.compress(bytes(data))
    return bytes(compressor.finish())


def _lz4_decode(data: bytes) -> bytes:
    return bytes(cramjam.lz4.decompress(data))


def provide_codecs() -> None:
    """Let every client of kafka-python in this process use each codec of Kafka. Idempotent."""
    if not codec.has_snappy():
        codec.snappy = SimpleNamespace(
            compress=lambda data: bytes(cramjam.snappy.compress_raw(data)),
            decompress=lambda data: bytes(cramjam.snappy.decompress_raw(data)),
        )
    if not codec.has_zstd():
        codec.zstd = SimpleNamespace(ZstdCompressor=_ZstdCompressor, ZstdDecompressor=_ZstdDecompressor)
    if not codec.has_lz4():
        for module in (codec, default_records, legacy_records):
            vars(module).update(lz4_encode=_lz4_encode, lz4_decode=_lz4_decode)
        codec.lz4 = cramjam.lz4
