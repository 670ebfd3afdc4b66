"""Which precisions processors compute fast in, and without overflow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

INT8_WEIGHT_LIMIT = 64
"""Weights of 8 bits use -64 to 64: symmetric, so that their zero point is 0, and no more, because
ONNX Runtime adds two products of unsigned and signed bytes in 16 bits on processors with AVX2 and
without VNNI; these hold 2 * 255 * 64 and not 2 * 255 * 127."""
_CPU_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""As torch names those of x86 and ARM."""


@cache
def has_bfloat16_arithmetic(device_type: str) -> bool:
    """Whether bfloat16 is worth computing in: a CPU without instructions for it emulates it, which
    takes many times as long as float32."""
    if device_type != "cpu":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in _CPU_FEATURES)


def autocast(device_type: str, wanted: bool) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 if it is wanted and fast, else a context that changes nothing."""
    if wanted and has_bfloat16_arithmetic(device_type):
        return torch.autocast(device_type, torch.bfloat16)
    return nullcontext()
