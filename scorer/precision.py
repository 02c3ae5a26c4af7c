"""Precision: what numbers the encoder's matrix products take. Sums, norms and the heads are float32 in each."""

from enum import StrEnum


class Precision(StrEnum):
    """Operands of the encoder's matrix products."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """But for the read-out, which is bfloat16; it needs a calibration."""
