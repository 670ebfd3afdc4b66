"""Forms in which an image can be sent: payloads, image files, raw features, OpenAI's JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.evaluation.baselines.features import Int8PerToken, RawFloat16, StreamCoding
from aligned_vq.evaluation.baselines.images import ImageCoding, resized
from aligned_vq.types import Payload
from benchmarks.kinds.baseline_service import raw_payload
from edge_client.encoder import EdgeEncoder

SIDE = 336
"""Side of the square image that LLaVA-1.5's vision tower reads, in pixels."""
Endpoint = Literal["ours", "raw", "openai"]
"""The server of a form: the production service, `baseline_service`, or the gateway's OpenAI API."""
BASELINE = "JPEG-90, 336 px"
FILES: tuple[tuple[Literal["JPEG", "WEBP"], int], ...] = (("JPEG", 90), ("WEBP", 90), ("WEBP", 20))


@dataclass(frozen=True)
class TransmittedForm:
    """One form of sending images, with every image in that form.

    Args:
        name: name in tables.
        endpoint: the server that accepts the form.
        bodies: one for each image: a payload, or a data URI for OpenAI's API.
        sizes_bytes: sizes of the bodies; those of data URIs include base64.
        follow_up: whether a further question can name the image by its digest.
    """

    name: str
    endpoint: Endpoint
    bodies: tuple[Payload | str, ...]
    sizes_bytes: tuple[int, ...]
    follow_up: bool = False


def transmitted_forms(bundle: Path, images: Sequence[Image.Image]) -> Iterator[TransmittedForm]:
    """Every form to compare for one bundle: operating points, image files and raw features."""
    encoder = EdgeEncoder(bundle)
    digest = encoder.digest
    # The published mode: a constant number of bits per token, hence the same size for every image.
    fixed = [encoder.encode(image, quality="fixed", coding="fixed").payload for image in images]
    yield _payload_form(f"AlignedVQ, {len(fixed[0].body)} B", "ours", fixed, follow_up=True)
    for point in encoder.manifest.operating_points:
        payloads = [encoder.encode(image, quality=point.name).payload for image in images]
        yield _payload_form(f"AlignedVQ, `{point.name}`", "ours", payloads)
    squares = [square(image) for image in images]
    for size, sized_images in (("336 px", squares), ("camera", list(images))):
        for file_format, quality in FILES:
            files = [encoded(image, file_format, quality) for image in sized_images]
            payloads = [raw_payload(digest, file) for file in files]
            name = f"{file_format}-{quality}, {size}"
            yield _payload_form(name, "raw", payloads)
            if file_format == "JPEG":
                uris = tuple(map(_data_uri, files))
                sizes = tuple(len(uri) for uri in uris)
                yield TransmittedForm(f"{name}, OpenAI JSON", "openai", uris, sizes)
    for coding in (Int8PerToken(), RawFloat16()):
        payloads = [raw_payload(digest, body) for body in _features(bundle, coding, squares)]
        yield _payload_form(coding.name, "raw", payloads)


def square(image: Image.Image) -> Image.Image:
    """The part that the vision tower reads: the centre of the image, 336 pixels on each side."""
    # As the image processor: the shorter side first, then the centre.
    small = resized(image, SIDE)
    left, top = (small.width - SIDE) // 2, (small.height - SIDE) // 2
    return small.crop((left, top, left + SIDE, top + SIDE))


def encoded(image: Image.Image, file_format: Literal["JPEG", "WEBP"], quality: int) -> bytes:
    """The smallest file that Pillow makes of an image, without resizing it."""
    return ImageCoding(file_format, quality, min(image.size)).encode(image)


def _payload_form(
    name: str, endpoint: Endpoint, payloads: Sequence[Payload], follow_up: bool = False
) -> TransmittedForm:
    sizes_bytes = tuple(len(payload.body) for payload in payloads)
    return TransmittedForm(name, endpoint, tuple(payloads), sizes_bytes, follow_up)


def _data_uri(file: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"


@torch.inference_mode()
def _features(bundle: Path, coding: StreamCoding, images: Sequence[Image.Image]) -> Iterator[bytes]:
    """The coded residual stream of each image at the cut; the cloud computes features from it."""
    from aligned_vq.images.preprocess import preprocess

    # The features are a LayerNorm of the residual stream, so the stream alone is enough.
    edge = open_edge_bundle(bundle)
    for image in images:
        pixels: Any = preprocess(image, edge.manifest.processor)
        _, residual = edge.prefix(torch.from_numpy(pixels)[None])
        yield coding.encode(residual[0].float().numpy())
