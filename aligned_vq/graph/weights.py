"""The tensors of `edge.safetensors`, for a graph to point into.

The file is the length of a header (8 bytes, little-endian), the header in JSON, and plain
little-endian tensors: what ONNX calls external data, known by file, offset and length.
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
        location: the file's name, beside the graph.
        content: the whole file.
    """
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    header = json.loads(content[_LENGTH_BYTES:start])
    header.pop("__metadata__", None)
    return {name: _external(name, location, start, entry) for name, entry in header.items()}


def _external(name: str, location: str, start: int, entry: Mapping[str, Any]) -> TensorProto:
    first, last = entry["data_offsets"]
    place = {"location": location, "offset": str(start + first), "length": str(last - first)}
    return TensorProto(
        name=name,
        data_type=_DTYPES[entry["dtype"]],
        dims=entry["shape"],
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=k, value=v) for k, v in place.items()],
    )
