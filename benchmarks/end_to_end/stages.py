"""Where the time of a question went, stage by stage; arithmetic alone.

Edge and cloud say how long each of their stages took. What is left of the time to the first token
is the link's: the way back is taken to be half of a small call's round trip, the rest is the
uplink.
"""

from __future__ import annotations

from collections.abc import Mapping

EDGE = ("load", "jpeg", "preprocess", "prefix", "quantize", "pack")
CLOUD = ("unpack", "turn", "rebuild", "suffix", "projector", "wait", "prefill")
LINK = ("uplink", "downlink")
AFTER = ("decode",)
"""From the first token to the last, as the edge sees it."""
STAGES = (*EDGE, "uplink", *CLOUD, "downlink", *AFTER)
"""In the order they run. `load` is what the client does before it encodes (a copy, the question);
`rebuild` is codebooks and residual link or, of a JPEG, its decoding, preprocessing and the
first blocks of the tower; `turn` and `wait` are waiting."""


def accounted(
    edge_ms: Mapping[str, float],
    cloud_ms: Mapping[str, float],
    first_token_ms: float,
    total_ms: float,
    round_trip_ms: float,
) -> dict[str, float]:
    """Milliseconds of every stage that ran, in order.

    Args:
        edge_ms: the edge's stages.
        cloud_ms: the cloud's, of which those in `CLOUD` count: `receive` runs while the edge works,
            and `decode` is seen from the edge.
        first_token_ms: from the question to the first token on the edge.
        total_ms: to the last.
        round_trip_ms: of a small call on the same link; 0 without a link.
    """
    cloud = {stage: cloud_ms[stage] for stage in CLOUD if stage in cloud_ms}
    link_ms = first_token_ms - sum(edge_ms.values()) - sum(cloud.values())
    back_ms = min(round_trip_ms / 2, max(link_ms, 0.0))
    link = {"uplink": link_ms - back_ms, "downlink": back_ms} if round_trip_ms else {}
    found = {**edge_ms, **cloud, **link, "decode": total_ms - first_token_ms}
    return {stage: found[stage] for stage in STAGES if stage in found}
