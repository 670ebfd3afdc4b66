"""The bundles that a service decodes for, as the wire and the warm-up need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aligned_vq import __version__
from aligned_vq.bitstream import max_body_bytes, pack
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ManifestMismatch
from aligned_vq.types import Encoded, Payload, StageIndices
from protos.messages import ServiceInfo


@dataclass(frozen=True)
class ServedBundle:
    """What `GetManifest` returns for a bundle, and the body size of its largest payload."""

    info: ServiceInfo
    max_body_bytes: int


ServedBundles = Mapping[bytes, ServedBundle]
"""Bundles by manifest digest, at least one; the first is the default of `GetManifest`."""


def served_bundles(
    manifests: Sequence[SplitManifest], max_question_chars: int, max_answer_tokens: int
) -> ServedBundles:
    """The bundles with these manifests, under the service's limits."""
    digests = tuple(manifest.digest() for manifest in manifests)
    bundles = {}
    for digest, manifest in zip(digests, manifests, strict=True):
        info = ServiceInfo(
            # A client's own copy of the bundle says what modalities it has: the cloud uses none.
            manifest_json=replace(manifest, modalities=()).to_json(),
            manifest_digest=digest,
            max_question_chars=max_question_chars,
            max_answer_tokens=max_answer_tokens,
            service_version=__version__,
            served_digests=digests,
        )
        # Such payloads also carry two numbers per token.
        statistics = manifest.link == "statistics"
        limit = max_body_bytes(manifest.quantizer, manifest.features.num_tokens, statistics)
        bundles[digest] = ServedBundle(info, limit)
    return bundles


def find_bundle(bundles: ServedBundles, digest: bytes) -> ServedBundle:
    """The bundle with that manifest digest.

    Raises:
        ManifestMismatch: it is not served; the message lists the digests that are.
    """
    bundle = bundles.get(digest)
    if bundle is None:
        served = ", ".join(each.hex() for each in bundles)
        raise ManifestMismatch(
            f"expected a bundle that is served here, with manifest {served}, got {digest.hex()}; "
            "install the service's bundle on the edge"
        )
    return bundle


def blank_payload(manifest: SplitManifest) -> Payload | None:
    """A valid payload with all indices 0, for the warm-up; None for raw features."""
    quantizer, num_tokens = manifest.quantizer, manifest.features.num_tokens
    if quantizer.kind == "identity":
        return None
    indices = np.zeros((num_tokens, quantizer.num_groups), np.int32)
    statistics = np.ones((num_tokens, 2), np.float16) if manifest.link == "statistics" else None
    blank = Encoded(num_tokens, (StageIndices(indices),), statistics)
    # Fixed-width coding needs no entropy tables.
    return pack(blank, quantizer, None, manifest.digest(), "fixed")
