"""AlignedVQ feature coding for vision-language models split between an edge and a cloud.

Public names load on first use: importing the package loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligned_vq.public_names import lazy_names

# For type checkers; at run time `__getattr__` imports a name when it is first used.
if TYPE_CHECKING:
    from aligned_vq.answers import Sampling, Timings, TokenChunk, Usage
    from aligned_vq.bitstream import EntropyTables, from_frame, pack, to_frame, unpack
    from aligned_vq.codec.bundle import CloudBundle, EdgeBundle, open_cloud_bundle, open_edge_bundle
    from aligned_vq.codec.bundle_files import read_manifest
    from aligned_vq.codec.feature_codec import CloudCodec, EdgeCodec, FeatureCodec
    from aligned_vq.codec.manifest import SplitManifest
    from aligned_vq.codec.spec import CodecSpec
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
        TrainingError,
        Unauthenticated,
    )
    from aligned_vq.images.load import load_image
    from aligned_vq.images.preprocess import preprocess
    from aligned_vq.llava.checkpoint import LlavaCheckpoint
    from aligned_vq.quantizer.aligned import AlignedVQ
    from aligned_vq.split.loading import load_prefix, load_suffix
    from aligned_vq.split.vision import VisionPrefix, VisionSuffix
    from aligned_vq.types import (
        Encoded,
        FeatureSpec,
        OperatingPoint,
        Payload,
        QuantizerConfig,
        SplitPoint,
        StageIndices,
    )

__all__ = [
    "AlignedVQ",
    "AlignedVQError",
    "CloudBundle",
    "CloudCodec",
    "CloudUnreachable",
    "CodecSpec",
    "ConfigError",
    "CorruptPayload",
    "DeadlineExceeded",
    "EdgeBundle",
    "EdgeCodec",
    "Encoded",
    "EngineError",
    "EntropyTables",
    "FeatureCodec",
    "FeatureSpec",
    "ImageNotHeld",
    "InvalidInput",
    "LlavaCheckpoint",
    "ManifestMismatch",
    "OperatingPoint",
    "Overloaded",
    "Payload",
    "QuantizerConfig",
    "QuotaExceeded",
    "Sampling",
    "SplitManifest",
    "SplitPoint",
    "StageIndices",
    "Timings",
    "TokenChunk",
    "TrainingError",
    "Unauthenticated",
    "Usage",
    "VisionPrefix",
    "VisionSuffix",
    "from_frame",
    "load_image",
    "load_prefix",
    "load_suffix",
    "open_cloud_bundle",
    "open_edge_bundle",
    "pack",
    "preprocess",
    "read_manifest",
    "to_frame",
    "unpack",
]

__version__ = "0.1.0"

_HOMES = {
    "AlignedVQ": "aligned_vq.quantizer.aligned",
    "AlignedVQError": "aligned_vq.errors",
    "CloudBundle": "aligned_vq.codec.bundle",
    "CloudCodec": "aligned_vq.codec.feature_codec",
    "CloudUnreachable": "aligned_vq.errors",
    "CodecSpec": "aligned_vq.codec.spec",
    "ConfigError": "aligned_vq.errors",
    "CorruptPayload": "aligned_vq.errors",
    "DeadlineExceeded": "aligned_vq.errors",
    "EdgeBundle": "aligned_vq.codec.bundle",
    "EdgeCodec": "aligned_vq.codec.feature_codec",
    "Encoded": "aligned_vq.types",
    "EngineError": "aligned_vq.errors",
    "EntropyTables": "aligned_vq.bitstream",
    "FeatureCodec": "aligned_vq.codec.feature_codec",
    "FeatureSpec": "aligned_vq.types",
    "ImageNotHeld": "aligned_vq.errors",
    "InvalidInput": "aligned_vq.errors",
    "LlavaCheckpoint": "aligned_vq.llava.checkpoint",
    "ManifestMismatch": "aligned_vq.errors",
    "OperatingPoint": "aligned_vq.types",
    "Overloaded": "aligned_vq.errors",
    "Payload": "aligned_vq.types",
    "QuantizerConfig": "aligned_vq.types",
    "QuotaExceeded": "aligned_vq.errors",
    "Sampling": "aligned_vq.answers",
    "SplitManifest": "aligned_vq.codec.manifest",
    "SplitPoint": "aligned_vq.types",
    "StageIndices": "aligned_vq.types",
    "Timings": "aligned_vq.answers",
    "TokenChunk": "aligned_vq.answers",
    "TrainingError": "aligned_vq.errors",
    "Unauthenticated": "aligned_vq.errors",
    "Usage": "aligned_vq.answers",
    "VisionPrefix": "aligned_vq.split.vision",
    "VisionSuffix": "aligned_vq.split.vision",
    "from_frame": "aligned_vq.bitstream",
    "load_image": "aligned_vq.images.load",
    "load_prefix": "aligned_vq.split.loading",
    "load_suffix": "aligned_vq.split.loading",
    "open_cloud_bundle": "aligned_vq.codec.bundle",
    "open_edge_bundle": "aligned_vq.codec.bundle",
    "pack": "aligned_vq.bitstream",
    "preprocess": "aligned_vq.images.preprocess",
    "read_manifest": "aligned_vq.codec.bundle_files",
    "to_frame": "aligned_vq.bitstream",
    "unpack": "aligned_vq.bitstream",
}

__getattr__ = lazy_names(__name__, _HOMES)
