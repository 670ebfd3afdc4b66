"""A sheet of sample images: one line per cut and codec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from aligned_vq.files.atomic_file import new_file

TILE_PX, GAP_PX, GUTTER_PX, LABEL_PX = 84, 2, 14, 116
_INK, _PAPER = (20, 20, 20), (255, 255, 255)
Line = tuple[str, Sequence[Image.Image], Sequence[Image.Image]]
"""Label, reconstructions, and the JPEG images beside them (or none)."""


def write_sheet(lines: Sequence[Line], path: Path) -> None:
    """Draw the lines, each image beside the next, as a PNG of 256 colours."""
    columns = max(len(recovered) for _, recovered, _ in lines)
    step = TILE_PX + GAP_PX
    lefts = [LABEL_PX + number * (2 * step + GUTTER_PX) for number in range(columns + 1)]
    sheet = Image.new("RGB", (max(lefts[-1] - GUTTER_PX, 400), 22 + len(lines) * step), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    pen.text((LABEL_PX, 4), "left: recovered; right: JPEG of the same bytes", _INK, font)
    for number, (label, recovered, jpeg) in enumerate(lines):
        top = 22 + number * step
        pen.multiline_text((4, top + 6), label, _INK, font)
        for shift, pictures in ((0, recovered), (step, jpeg)):
            for left, picture in zip(lefts, pictures, strict=False):
                tile = picture.resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
                sheet.paste(tile, (left + shift, top))
    with new_file(path) as part:
        # Dithering would add noise that no reconstruction has.
        sheet.quantize(256, dither=Image.Dither.NONE).save(part, optimize=True)
