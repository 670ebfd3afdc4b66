"""Sending the picture itself: JPEG and WebP at several qualities and sizes, to the unsplit model.

Bytes are those of the whole file as Pillow writes it, tables and headers included: that is what a
client would upload. Both encoders are asked for their smallest file of a quality.
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

_WRITE: dict[str, dict[str, Any]] = {
    "JPEG": {"optimize": True},  # Huffman tables of this picture; chroma at half size
    "WEBP": {"method": 6},
}


@dataclass(frozen=True)
class ImageCoding:
    """A file format at a quality, of the picture at a size."""

    format: Literal["JPEG", "WEBP"]
    quality: int
    """Pillow's, 0 to 100; not comparable between formats."""
    side: int
    """Pixels of the shorter side of what is sent."""

    @property
    def name(self) -> str:
        """Such as `JPEG-90 336px`."""
        return f"{self.format}-{self.quality} {self.side}px"

    def encode(self, picture: Image.Image) -> bytes:
        """The file of a picture, made smaller first (bicubic) unless it is of that size."""
        file = BytesIO()
        small = resized(picture, self.side)
        small.save(file, self.format, quality=self.quality, **_WRITE[self.format])
        return file.getvalue()

    @staticmethod
    def decode(data: bytes, side: int) -> Image.Image:
        """The picture in a file, brought back (bicubic) to `side` pixels of its shorter side."""
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
    """A `FeaturePath`: the picture crosses as a file, the unsplit model sees what was decoded.

    The sender first brings the picture to the model's own size, where it is larger or smaller:
    no path here is charged for detail that the model cannot see.

    Args:
        examiner: its whole tower and processor are the receiver.
        coding: what is sent.
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

    def __call__(self, pictures: Sequence[Image.Image], pixels: Tensor) -> PathOutput:
        """See `FeaturePath`; `pixels` is not looked at. Time is that of resizing and encoding."""
        files: list[bytes] = []
        milliseconds: list[float] = []
        for picture in pictures:
            seen = resized(picture.convert("RGB"), self._side)
            start = time.perf_counter_ns()
            files.append(self._coding.encode(seen))
            milliseconds.append((time.perf_counter_ns() - start) / 1e6)
        decoded = [self._coding.decode(file, self._side) for file in files]
        states = self._examiner.tower_states(self._examiner.pixels(decoded))
        return PathOutput(states, [len(file) for file in files], None, None, milliseconds)


def image_baselines(
    examiner: Evaluator, codings: Sequence[ImageCoding] = IMAGE_CODINGS
) -> Iterator[ImageBaseline]:
    """A path for every coding."""
    for coding in codings:
        yield ImageBaseline(examiner, coding)


def resized(picture: Image.Image, side: int) -> Image.Image:
    """The picture with a shorter side of `side` pixels, in its proportions; itself if it has it."""
    shorter = min(picture.size)
    if shorter == side:
        return picture
    width, height = (max(1, round(length * side / shorter)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
