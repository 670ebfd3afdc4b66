"""Sizes and timings of an answer, as the page shows them (the field `split` of a response)."""

from __future__ import annotations

from typing import Any

from aligned_vq.answers import Timings
from edge_client.answer import AnswerDetails
from edge_client.decoding.job import DecodedView
from edge_client.gateway.request_images import jpeg_bytes


def figures(
    details: AnswerDetails, quality: str | None, image: DecodedView | None
) -> dict[str, Any]:
    """JSON values: sizes in bytes (`bytes_sent`: of gRPC messages), times in milliseconds.

    Args:
        details: of the answer.
        quality: the operating point.
        image: of the question; None for a text-only question.
    """
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
    """Dimensions and size of an image file, and the same of its view as a JPEG."""
    view_height, view_width, _ = image.view.pixels.shape
    return {
        "width": image.width,
        "height": image.height,
        "file_bytes": image.file_bytes,
        "jpeg_bytes": jpeg_bytes(image.view),
        "jpeg_size": [view_width, view_height],
    }


def _stages(timings: Timings) -> list[dict[str, Any]]:
    return [{"stage": stage, "ms": ns / 1e6} for stage, ns in timings.stages_ns.items()]
