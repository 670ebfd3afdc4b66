from __future__ import annotations

import subprocess
import sys

from aligned_vq import bitstream


def test_all_is_sorted_and_complete() -> None:
    public = [
        name
        for name, value in vars(bitstream).items()
        if not name.startswith("_")
        and getattr(value, "__name__", "") != f"{bitstream.__name__}.{name}"
    ]
    assert bitstream.__all__ == sorted(public)


def test_importing_it_loads_neither_tensors_nor_the_wire() -> None:
    forbidden = {"torch", "transformers", "grpc"}
    code = f"import sys, aligned_vq.bitstream; print({forbidden} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.strip() == b"set()"
