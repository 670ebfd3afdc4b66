"""The edge half: turns images into codebook indices and asks the cloud about them.

Names are imported on first use, so that each part of the package needs only its own libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aligned_vq.errors import (
        AlignedVQError,
        CloudUnreachable,
        ConfigError,
        CorruptPayload,
        DeadlineExceeded,
        EngineError,
        ImageNotHeld,
        InvalidInput,
        ManifestMismatch,
        Overloaded,
        QuotaExceeded,
        Unauthenticated,
    )
    from edge_client.aio import AsyncAnswerStream, AsyncEdgeClient
    from edge_client.answer import Answer, AnswerDetails
    from edge_client.client import EdgeClient
    from edge_client.config import EdgeConfig
    from edge_client.connection.stream import AnswerStream

__all__ = [
    "AlignedVQError",
    "Answer",
    "AnswerDetails",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncEdgeClient",
    "CloudUnreachable",
    "ConfigError",
    "CorruptPayload",
    "DeadlineExceeded",
    "EdgeClient",
    "EdgeConfig",
    "EngineError",
    "ImageNotHeld",
    "InvalidInput",
    "ManifestMismatch",
    "Overloaded",
    "QuotaExceeded",
    "Unauthenticated",
]

_MODULES = {
    "Answer": "edge_client.answer",
    "AnswerDetails": "edge_client.answer",
    "AnswerStream": "edge_client.connection.stream",
    "AsyncAnswerStream": "edge_client.aio",
    "AsyncEdgeClient": "edge_client.aio",
    "EdgeClient": "edge_client.client",
    "EdgeConfig": "edge_client.config",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edge_client' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "aligned_vq.errors")), name)
