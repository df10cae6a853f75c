"""Peak FLOP/s of devices, from their vendors' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass

T = 1e12


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s of dense matrix products, per JAX device.

    Attributes:
      bfloat16: bfloat16 inputs, float32 accumulation; None if unsupported.
      float32: float32 inputs at JAX's default precision: TF32 on NVIDIA GPUs since Ampere, rounded to bfloat16 on TPUs.
      float16: float16 inputs, float32 accumulation; None if unsupported.
    """

    bfloat16: float | None
    float32: float
    float16: float | None


def _nvidia(bfloat16: float, tf32: float) -> Peak:
    return Peak(bfloat16 * T, tf32 * T, bfloat16 * T)


def _tpu(bfloat16: float) -> Peak:
    return Peak(bfloat16 * T, bfloat16 * T, None)


PEAKS: tuple[tuple[str, Peak], ...] = (  # the first pattern that matches the device's name applies
    (r"GB200|GB300", _nvidia(2500.0, 1250.0)),
    (r"B200|B300", _nvidia(2250.0, 1100.0)),
    (r"H200 NVL|H100 NVL", _nvidia(835.5, 417.5)),
    (r"H100 PCIe", _nvidia(756.0, 378.0)),
    (r"H100|H200|H800|GH200", _nvidia(989.4, 494.7)),
    (r"H20\b", _nvidia(148.0, 74.0)),
    (r"A100|A800", _nvidia(312.0, 156.0)),
    (r"A10G\b", _nvidia(70.0, 35.0)),
    (r"A10\b", _nvidia(125.0, 62.5)),
    (r"A30\b", _nvidia(165.0, 82.0)),
    (r"A40\b", _nvidia(149.7, 74.8)),
    (r"L40S", _nvidia(362.0, 183.0)),
    (r"L40\b", _nvidia(181.0, 90.5)),
    (r"\bL4\b", _nvidia(121.0, 60.0)),
    (r"\bT4\b", Peak(None, 8.1 * T, 65 * T)),
    (r"V100", Peak(None, 15.7 * T, 125 * T)),
    (r"RTX 6000 Ada", _nvidia(364.2, 182.1)),
    (r"RTX A6000", _nvidia(154.8, 77.4)),
    (r"RTX 5090", _nvidia(209.5, 104.8)),
    (r"RTX 5080", _nvidia(112.6, 56.3)),
    (r"RTX 5070 Ti", _nvidia(87.9, 43.9)),
    (r"RTX 5070", _nvidia(61.7, 30.9)),
    (r"RTX 4090", _nvidia(165.2, 82.6)),
    (r"RTX 4080", _nvidia(97.5, 48.7)),
    (r"RTX 4070 Ti", _nvidia(80.2, 40.1)),
    (r"RTX 4070", _nvidia(58.3, 29.1)),
    (r"RTX 3090 Ti", _nvidia(80.0, 40.0)),
    (r"RTX 3090", _nvidia(71.0, 35.6)),
    (r"RTX 3080", _nvidia(59.5, 29.8)),
    (r"RTX 3070", _nvidia(40.6, 20.3)),
    (r"TPU v2", _tpu(22.5)),  # JAX lists a chip of v2, v3 and 7x as two devices: half of the chip's peak
    (r"TPU v3", _tpu(61.5)),
    (r"TPU v4 lite", _tpu(138.0)),
    (r"TPU v4", _tpu(275.0)),
    (r"TPU v5 ?lite|TPU v5e", _tpu(197.0)),
    (r"TPU v5", _tpu(459.0)),
    (r"TPU v6", _tpu(918.0)),
    (r"TPU ?v?7", _tpu(1153.5)),
)


def peak_flops(kind: str, dtype: str) -> float | None:
    """Returns the peak FLOP/s of a device; None if unknown.

    >>> peak_flops("NVIDIA H200", "bfloat16"), peak_flops("TPU v5 lite", "float32"), peak_flops("cpu", "float32")
    (989400000000000.0, 197000000000000.0, None)

    Args:
      kind: JAX's ``device_kind``.
      dtype: of the inputs of the products.
    """
    for pattern, peak in PEAKS:
        if re.search(pattern, kind):
            return getattr(peak, dtype, None)
    return None
