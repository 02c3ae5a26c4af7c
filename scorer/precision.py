"""Precision of the encoder's matrix products. Sums, norms and heads are always float32."""

from enum import StrEnum


class Precision(StrEnum):
    """Operands of the encoder's matrix products."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """Except the read-out, which is bfloat16. It needs a calibration."""
