"""The tensors of `edge.safetensors` as external data of an ONNX graph.

A safetensors file consists of the header's length (8 bytes, little-endian), the header in JSON, and
the tensors as plain little-endian data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnx import StringStringEntryProto, TensorProto

_LENGTH_BYTES = 8
_DTYPES = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "F32": TensorProto.FLOAT}


def stored_tensors(location: str, content: bytes) -> dict[str, TensorProto]:
    """All tensors of a safetensors file as external data.

    Args:
        location: name of the file, in the folder of the graph.
        content: of the file.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    header.pop("__metadata__", None)
    return {name: _external(name, location, start, entry) for name, entry in header.items()}


def _external(name: str, location: str, start: int, entry: Mapping[str, Any]) -> TensorProto:
    first, end = entry["data_offsets"]
    # ONNX stores all values of external data as text.
    reference = {"location": location, "offset": str(start + first), "length": str(end - first)}
    return TensorProto(
        name=name,
        data_type=_DTYPES[entry["dtype"]],
        dims=entry["shape"],
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=k, value=v) for k, v in reference.items()],
    )
