"""The contract of a partition: the settings that its state is a function of, written when it is created.

Little-endian::

    version u8 (2) · max_explicit u32 · max_impressions u32 · age of explicit actions u32 · of impressions u32

An age is in hours, 0 for none. Another cap or age would give another state from the same log, and two copies
could not agree, so a partition that was built with one is not opened with another.
"""

import struct
from typing import NamedTuple, Self

from lifeline.core.actions import Kind
from lifeline.store.errors import ContractError, CorruptRecordError, FormatVersionError
from lifeline.store.settings import StoreSettings

VERSION = 2

_CONTRACT = struct.Struct("<BIIII")


class RetentionPolicy(NamedTuple):
    """What the log is applied by."""

    max_explicit: int
    max_impressions: int
    explicit_age_hours: int
    impression_age_hours: int

    @classmethod
    def of(cls, settings: StoreSettings) -> Self:
        """Return the contract that settings ask for."""
        ages = [settings.max_age_hours(kind) or 0 for kind in (Kind.EXPLICIT, Kind.IMPRESSION)]
        return cls(settings.max_explicit, settings.max_impressions, *ages)

    def cap(self, kind: Kind) -> int:
        """Return how many events of `kind` a user keeps."""
        return self.max_explicit if kind is Kind.EXPLICIT else self.max_impressions

    def age_hours(self, kind: Kind) -> int:
        """Return the maximum age of `kind`, 0 for none."""
        return self.explicit_age_hours if kind is Kind.EXPLICIT else self.impression_age_hours

    def check(self, asked: Self) -> None:
        """Raise ContractError unless `asked`, from the settings, is the same."""
        if self != asked:
            raise ContractError(
                "; ".join(
                    f"{name} is {ours} and the settings say {theirs}"
                    for name, ours, theirs in zip(self._fields, self, asked, strict=True)
                    if ours != theirs
                )
            )

    def pack(self) -> bytes:
        """Return the record's bytes."""
        return _CONTRACT.pack(VERSION, *self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read a record; raises FormatVersionError, CorruptRecordError."""
        if data and data[0] != VERSION:
            raise FormatVersionError("the partition", data[0], VERSION)
        if len(data) != _CONTRACT.size:
            raise CorruptRecordError(f"a contract of {len(data)} bytes")
        return cls(*_CONTRACT.unpack(data)[1:])
