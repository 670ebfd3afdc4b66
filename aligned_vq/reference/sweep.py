"""Calibrated codecs at several cuts with every residual link, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aligned_vq.calibrate import (
    CalibratedCodec,
    CodecPlan,
    calibrate_codec,
    features_at,
    load_prefix,
    pixel_batches,
    with_link,
)
from aligned_vq.errors import ConfigError
from aligned_vq.reference.examination import ReferenceExaminer, Report, training_pictures
from aligned_vq.split.residual_link import check_link
from aligned_vq.types import LINK_KINDS, LinkKind, SplitPoint

CUTS = ("pre", "ln1@0", "ln2@0", "ln1@1")
CALIBRATION_PICTURES = 400


@dataclass(frozen=True)
class SweepRow:
    """One cut and link: what it costs in bytes and what it answers."""

    split: SplitPoint
    link: LinkKind
    payload_bytes: int
    """Fixed-width body per image, statistics included."""
    report: Report
    calibrated: CalibratedCodec

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures."""
        return {
            "split": str(self.split),
            "link": self.link,
            "payload_bytes": self.payload_bytes,
            **self.report.to_dict(),
        }


def sweep(
    examiner: ReferenceExaminer,
    cuts: Sequence[str] = CUTS,
    links: Sequence[LinkKind] = LINK_KINDS,
    codebook_sizes: tuple[int, ...] = (4096,),
) -> Iterator[SweepRow]:
    """A row for every cut and every link that serves it."""
    for cut in cuts:
        split = SplitPoint.parse(cut)
        pixels = pixel_batches(examiner.checkpoint, training_pictures(CALIBRATION_PICTURES))
        examples = features_at(load_prefix(examiner.checkpoint, split), pixels)
        learned = calibrate_codec(
            examiner.checkpoint, CodecPlan(split, "learned", codebook_sizes), examples
        )
        for link in links:
            try:
                check_link(link, split, identity_quantizer=False)
            except ConfigError:
                continue
            calibrated = learned if link == "learned" else with_link(learned, link)
            path = examiner.split_path(split, calibrated.codec)
            report = examiner.examine(path, f"{cut} {link}")
            features = calibrated.manifest.features
            extra = 4 * features.num_tokens if calibrated.link.needs_statistics else 0
            body = calibrated.manifest.quantizer.payload_bytes(features.num_tokens)
            yield SweepRow(split, link, body + extra, report, calibrated)
