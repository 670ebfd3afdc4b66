"""What can be sent of a picture, ready made: payloads of codecs, files, features, OpenAI's JSON."""

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
from benchmarks.kinds.pixel_cloud import raw_payload
from edge_client.encoder import EdgeEncoder

SIDE = 336
"""Pixels of a side of what LLaVA-1.5's vision tower sees."""
Door = Literal["ours", "raw", "openai"]
"""Who takes a thing: our service, the benchmark's for files and features, or OpenAI's API."""
BASELINE = "JPEG-90, 336 px"
FILES: tuple[tuple[Literal["JPEG", "WEBP"], int], ...] = (("JPEG", 90), ("WEBP", 90), ("WEBP", 20))


@dataclass(frozen=True)
class Thing:
    """One way to send a picture, and every picture sent so.

    Args:
        name: for tables.
        door: who takes it.
        bodies: one for each picture, made once: a payload, or a data URI for OpenAI's API.
        sizes_bytes: of the bodies, of base64's too.
        follow_up: is there a shorter way to ask about the same picture again?
    """

    name: str
    door: Door
    bodies: tuple[Payload | str, ...]
    sizes_bytes: tuple[int, ...]
    follow_up: bool = False


def things(bundle: Path, pictures: Sequence[Image.Image]) -> Iterator[Thing]:
    """Everything that is compared, for one bundle: operating points, files and features."""
    encoder = EdgeEncoder(bundle)
    digest = encoder.digest
    fixed = [encoder.encode(own, quality="fixed", coding="fixed").payload for own in pictures]
    yield _payloads(f"AlignedVQ, {len(fixed[0].body)} B", "ours", fixed, follow_up=True)
    for point in encoder.manifest.operating_points:
        sent = [encoder.encode(own, quality=point.name).payload for own in pictures]
        yield _payloads(f"AlignedVQ, `{point.name}`", "ours", sent)
    squares = [square(own) for own in pictures]
    for name, own in (("336 px", squares), ("camera", list(pictures))):
        for form, quality in FILES:
            files = [encoded(picture, form, quality) for picture in own]
            raw = [raw_payload(digest, file) for file in files]
            yield _payloads(f"{form}-{quality}, {name}", "raw", raw)
            if form == "JPEG":
                uris = tuple(map(_data_uri, files))
                sizes = tuple(len(uri) for uri in uris)
                yield Thing(f"{form}-{quality}, {name}, OpenAI JSON", "openai", uris, sizes)
    for coding in (Int8PerToken(), RawFloat16()):
        raw = [raw_payload(digest, body) for body in _features(bundle, coding, squares)]
        yield _payloads(coding.name, "raw", raw)


def square(picture: Image.Image) -> Image.Image:
    """What the vision tower sees: the middle of the picture, 336 pixels on each side."""
    small = resized(picture, SIDE)
    left, top = (small.width - SIDE) // 2, (small.height - SIDE) // 2
    return small.crop((left, top, left + SIDE, top + SIDE))


def encoded(picture: Image.Image, form: Literal["JPEG", "WEBP"], quality: int) -> bytes:
    """The smallest file that Pillow makes of it at its size."""
    return ImageCoding(form, quality, min(picture.size)).encode(picture)


def _payloads(name: str, door: Door, sent: Sequence[Payload], follow_up: bool = False) -> Thing:
    return Thing(name, door, tuple(sent), tuple(len(own.body) for own in sent), follow_up)


def _data_uri(file: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"


@torch.inference_mode()
def _features(
    bundle: Path, coding: StreamCoding, pictures: Sequence[Image.Image]
) -> Iterator[bytes]:
    """The residual stream at the bundle's cut, which closes it."""
    from aligned_vq.images.preprocess import preprocess

    edge = open_edge_bundle(bundle)
    for picture in pictures:
        pixels: Any = preprocess(picture, edge.manifest.processor)
        _, residual = edge.prefix(torch.from_numpy(pixels)[None])
        yield coding.encode(residual[0].float().numpy())
