"""What the split did for one answer: figures for the page."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Timings
from edge_client.answer import AnswerDetails
from edge_client.gateway.pictures import Picture, jpeg_bytes


def figures(details: AnswerDetails, quality: str | None, picture: Picture | None) -> dict[str, Any]:
    """JSON-able; bytes are of gRPC messages, times in milliseconds."""
    return {
        "bytes_sent": details.message_bytes,
        "payload_bytes": details.payload_bytes,
        "image_held": picture is not None and details.payload_bytes == 0,
        "quality": None if picture is None else quality,
        "image": None if picture is None else sizes(picture),
        "attempts": details.attempts,
        "first_token_ms": details.first_token_ms,
        "total_ms": details.total_ms,
        "edge": _stages(details.edge),
        "cloud": _stages(details.cloud),
    }


def sizes(picture: Picture) -> dict[str, Any]:
    """What the picture is and weighs, as it came and as a JPEG of the size that the model sees."""
    seen_height, seen_width, _ = picture.view.pixels.shape
    return {
        "width": picture.width,
        "height": picture.height,
        "file_bytes": picture.file_bytes,
        "jpeg_bytes": jpeg_bytes(picture.view),
        "jpeg_size": [seen_width, seen_height],
    }


def _stages(timings: Timings) -> list[dict[str, Any]]:
    return [{"stage": stage, "ms": ns / 1e6} for stage, ns in timings.stages_ns.items()]
