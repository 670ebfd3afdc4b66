"""The edge half: turns images into codebook indices and asks the cloud about them.

Public names load on first use, so that a part of the package can be used without the libraries of
another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligned_vq.public_names import lazy_names

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
    from edge_client.classifier.classifier import Classification, EdgeClassifier, ScoredLabel
    from edge_client.client import EdgeClient
    from edge_client.config import EdgeConfig
    from edge_client.connection.stream import AnswerStream
    from edge_client.encoder import EncodedImage

__all__ = [
    "AlignedVQError",
    "Answer",
    "AnswerDetails",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncEdgeClient",
    "Classification",
    "CloudUnreachable",
    "ConfigError",
    "CorruptPayload",
    "DeadlineExceeded",
    "EdgeClassifier",
    "EdgeClient",
    "EdgeConfig",
    "EncodedImage",
    "EngineError",
    "ImageNotHeld",
    "InvalidInput",
    "ManifestMismatch",
    "Overloaded",
    "QuotaExceeded",
    "ScoredLabel",
    "Unauthenticated",
]

_HOMES = {
    "AlignedVQError": "aligned_vq.errors",
    "Answer": "edge_client.answer",
    "AnswerDetails": "edge_client.answer",
    "AnswerStream": "edge_client.connection.stream",
    "AsyncAnswerStream": "edge_client.aio",
    "AsyncEdgeClient": "edge_client.aio",
    "Classification": "edge_client.classifier.classifier",
    "CloudUnreachable": "aligned_vq.errors",
    "ConfigError": "aligned_vq.errors",
    "CorruptPayload": "aligned_vq.errors",
    "DeadlineExceeded": "aligned_vq.errors",
    "EdgeClassifier": "edge_client.classifier.classifier",
    "EdgeClient": "edge_client.client",
    "EdgeConfig": "edge_client.config",
    "EncodedImage": "edge_client.encoder",
    "EngineError": "aligned_vq.errors",
    "ImageNotHeld": "aligned_vq.errors",
    "InvalidInput": "aligned_vq.errors",
    "ManifestMismatch": "aligned_vq.errors",
    "Overloaded": "aligned_vq.errors",
    "QuotaExceeded": "aligned_vq.errors",
    "ScoredLabel": "edge_client.classifier.classifier",
    "Unauthenticated": "aligned_vq.errors",
}

__getattr__ = lazy_names(__name__, _HOMES)
