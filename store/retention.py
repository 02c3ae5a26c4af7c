"""The retention policy of a partition: the settings that determine its state, stored when it is created.

Little-endian::

    version u8 (2) · max_explicit u32 · max_impressions u32 · age of explicit actions u32 · of impressions u32

An age is in hours, 0 for no limit. With another cap or age, the same log would give another state, and copies would
differ. So a partition is never opened for writing with another policy than it was built with.
"""

import struct
from typing import NamedTuple, Self

from lifeline.core.actions import Kind
from lifeline.store.errors import CorruptRecordError, FormatVersionError, RetentionPolicyError
from lifeline.store.settings import StoreSettings

VERSION = 2

_CONTRACT = struct.Struct("<BIIII")


class RetentionPolicy(NamedTuple):
    """Caps and maximum ages of a partition's events."""

    max_explicit: int
    max_impressions: int
    explicit_age_hours: int
    impression_age_hours: int

    @classmethod
    def of(cls, settings: StoreSettings) -> Self:
        """Return the policy of the settings."""
        ages = [settings.max_age_hours(kind) or 0 for kind in (Kind.EXPLICIT, Kind.IMPRESSION)]
        return cls(settings.max_explicit, settings.max_impressions, *ages)

    def cap(self, kind: Kind) -> int:
        """Return how many events of `kind` a user keeps."""
        return self.max_explicit if kind is Kind.EXPLICIT else self.max_impressions

    def age_hours(self, kind: Kind) -> int:
        """Return the maximum age of `kind` in hours, 0 for no limit."""
        return self.explicit_age_hours if kind is Kind.EXPLICIT else self.impression_age_hours

    def check(self, configured: Self) -> None:
        """Raise RetentionPolicyError unless the configured policy equals this one."""
        if self != configured:
            raise RetentionPolicyError(
                "; ".join(
                    f"{name} is {value} and the settings say {setting}"
                    for name, value, setting in zip(self._fields, self, configured, strict=True)
                    if value != setting
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
            raise CorruptRecordError(f"a retention policy of {len(data)} bytes")
        return cls(*_CONTRACT.unpack(data)[1:])
