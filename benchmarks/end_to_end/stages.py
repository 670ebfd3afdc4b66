"""The time of a question, stage by stage: arithmetic only.

Edge and cloud report how long each of their stages took. The remainder of the time to the first
token is the link's: half of a small call's round trip counts as downlink, the rest as uplink.
"""

from __future__ import annotations

from collections.abc import Mapping

EDGE = ("load", "jpeg", "preprocess", "prefix", "quantize", "pack")
CLOUD = ("unpack", "turn", "rebuild", "suffix", "projector", "wait", "prefill")
LINK = ("uplink", "downlink")
AFTER = ("decode",)
"""From the first token to the last, as measured on the edge."""
STAGES = (*EDGE, "uplink", *CLOUD, "downlink", *AFTER)
"""All stages in the order they run. `load` is the client's work before it encodes: a copy of the
image, and the question. `rebuild` is codebooks and residual link; for a JPEG it is decoding,
preprocessing and the first blocks of the tower. `turn` is the wait for the decoder, `wait` that for
the engine."""


def accounted(
    edge_ms: Mapping[str, float],
    cloud_ms: Mapping[str, float],
    first_token_ms: float,
    total_ms: float,
    round_trip_ms: float,
) -> dict[str, float]:
    """Milliseconds of every stage that ran, in the order of `STAGES`; the sum is `total_ms`.

    Args:
        edge_ms: stages of the edge.
        cloud_ms: stages of the cloud; only those in `CLOUD` count: `receive` overlaps with the
            edge's work, and `decode` is measured on the edge.
        first_token_ms: from the question to the first token, on the edge.
        total_ms: from the question to the last token, on the edge.
        round_trip_ms: time of a small call on the same link; 0 without a link.
    """
    cloud = {stage: cloud_ms[stage] for stage in CLOUD if stage in cloud_ms}
    link_ms = first_token_ms - sum(edge_ms.values()) - sum(cloud.values())
    # A remainder below half a round trip would give a negative uplink.
    downlink_ms = min(round_trip_ms / 2, max(link_ms, 0.0))
    link = {"uplink": link_ms - downlink_ms, "downlink": downlink_ms} if round_trip_ms else {}
    stages_ms = {**edge_ms, **cloud, **link, "decode": total_ms - first_token_ms}
    return {stage: stages_ms[stage] for stage in STAGES if stage in stages_ms}
