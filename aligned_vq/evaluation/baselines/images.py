"""Baselines that send the image to the unsplit model: JPEG and WebP at several qualities and sizes.

Sizes are those of whole files, as a client would upload them. Both encoders use the settings for
the smallest files of a quality.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from aligned_vq.evaluation.examiner import Evaluator
from aligned_vq.evaluation.llava import PathOutput

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True},  # Huffman tables for the image; chroma is subsampled by default
    "WEBP": {"method": 6},  # the slowest and best search
}


@dataclass(frozen=True)
class ImageCoding:
    """A file format with a quality and an image size."""

    format: Literal["JPEG", "WEBP"]
    quality: int
    """Pillow's `quality`, 0 to 100; not comparable between formats."""
    side: int
    """Length of the shorter side of the sent image in pixels."""

    @property
    def name(self) -> str:
        """A name such as `JPEG-90 336px`."""
        return f"{self.format}-{self.quality} {self.side}px"

    def encode(self, image: Image.Image) -> bytes:
        """The file of an image, which is resized (bicubic) to `side` if necessary."""
        file = BytesIO()
        small = resized(image, self.side)
        small.save(file, self.format, quality=self.quality, **_SAVE_OPTIONS[self.format])
        return file.getvalue()

    @staticmethod
    def decode(data: bytes, side: int) -> Image.Image:
        """The image in a file, resized (bicubic) to a shorter side of `side` pixels."""
        return resized(Image.open(BytesIO(data)).convert("RGB"), side)


IMAGE_CODINGS: tuple[ImageCoding, ...] = (
    *(ImageCoding("JPEG", quality, 336) for quality in (90, 50, 20)),
    *(ImageCoding("JPEG", quality, 224) for quality in (90, 50, 20)),
    *(ImageCoding("JPEG", quality, 168) for quality in (90, 50, 20)),
    *(ImageCoding("JPEG", quality, 112) for quality in (90, 50, 20, 10, 5)),
    *(ImageCoding("WEBP", quality, 336) for quality in (90, 50, 20, 5)),
    *(ImageCoding("WEBP", quality, side) for side in (224, 168, 112) for quality in (50, 20, 5)),
)


class ImageBaseline:
    """A `FeaturePath` that sends an image file to the unsplit model.

    The sender first resizes images to the size of the model's input, so that no bytes are spent on
    details that the model does not receive.

    Args:
        examiner: its vision tower and processor receive the decoded image.
        coding: of the image.
    """

    quantizer = None

    def __init__(self, examiner: Evaluator, coding: ImageCoding) -> None:
        self._examiner = examiner
        self._coding = coding
        self._side = examiner.checkpoint.tower.vision.image_size

    @property
    def name(self) -> str:
        """The coding's name."""
        return self._coding.name

    @property
    def settings(self) -> dict[str, Any]:
        """Format, quality and side."""
        return asdict(self._coding)

    def __call__(self, images: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`; `pixels` is not used. Edge times are those of `ImageCoding.encode`."""
        files: list[bytes] = []
        milliseconds: list[float] = []
        for image in images:
            # Not timed: the edge times of other paths begin with prepared images, too.
            model_sized = resized(image.convert("RGB"), self._side)
            start = time.perf_counter_ns()
            files.append(self._coding.encode(model_sized))
            milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        decoded = [self._coding.decode(file, self._side) for file in files]
        states = self._examiner.tower_states(self._examiner.pixels(decoded))
        return PathOutput(states, [len(file) for file in files], None, None, milliseconds)


def image_baselines(
    examiner: Evaluator, codings: Sequence[ImageCoding] = IMAGE_CODINGS
) -> Iterator[ImageBaseline]:
    """A baseline for every coding."""
    for coding in codings:
        yield ImageBaseline(examiner, coding)


def resized(image: Image.Image, side: int) -> Image.Image:
    """The image with a shorter side of `side` pixels and the same aspect ratio."""
    shorter = min(image.size)
    if shorter == side:
        return image
    width, height = (max(1, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
