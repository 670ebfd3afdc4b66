"""What the split did for one answer: figures for the page."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Timings
from edge_client.answer import AnswerDetails
from edge_client.decoding.job import DecodedView
from edge_client.gateway.request_images import jpeg_bytes


def figures(
    details: AnswerDetails, quality: str | None, image: DecodedView | None
) -> dict[str, Any]:
    """JSON-able; bytes are of gRPC messages, times in milliseconds."""
    return {
        "bytes_sent": details.message_bytes,
        "payload_bytes": details.payload_bytes,
        "image_held": image is not None and details.payload_bytes == 0,
        "quality": None if image is None else quality,
        "image": None if image is None else sizes(image),
        "attempts": details.attempts,
        "first_token_ms": details.first_token_ms,
        "total_ms": details.total_ms,
        "edge": _stages(details.edge),
        "cloud": _stages(details.cloud),
    }


def sizes(image: DecodedView) -> dict[str, Any]:
    """What the image is and weighs, as it came and as a JPEG of the size that the model sees."""
    seen_height, seen_width, _ = image.view.pixels.shape
    return {
        "width": image.width,
        "height": image.height,
        "file_bytes": image.file_bytes,
        "jpeg_bytes": jpeg_bytes(image.view),
        "jpeg_size": [seen_width, seen_height],
    }


def _stages(timings: Timings) -> list[dict[str, Any]]:
    return [{"stage": stage, "ms": ns / 1e6} for stage, ns in timings.stages_ns.items()]
