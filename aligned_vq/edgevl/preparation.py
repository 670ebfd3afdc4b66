"""Decodes the pairs of a source once, into arrays on disk."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from aligned_vq.data.pairs.types import Pair, PairSource, load_pair
from aligned_vq.edgevl.pool import PairArrays
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.images.depth import RangeSettings, grey_image, student_processor
from aligned_vq.images.masked_resize import resize_valid
from aligned_vq.images.modality import Modality
from aligned_vq.images.preprocess import view_of

_RGB, _OTHER, _TEXTS = "rgb.npy", "other.npy", "pairs.json"
_PAIRS_PER_TASK = 16
_MAX_CLIPPED = 0.9
"""Share of measured pixels at the ends of a fixed range; a range in another unit clips all."""
_PAIRS_TO_CHECK = 256

Sides = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def prepare_pairs(
    source: PairSource, folder: Path, side_px: int, greys: RangeSettings
) -> PairArrays:
    """The pairs of a source, squeezed to squares; decoded by all cores unless `folder` has them.

    Args:
        source: with at least one pair.
        folder: of the arrays; one that another source or size has filled is filled again.
        side_px: of the squares.
        greys: how values of the other modality become greys.

    Raises:
        ConfigError: an image is missing, or a fixed range leaves most pixels black or white.
        InvalidInput: an image is damaged, constant, or not of its modality.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    pairs = [source[index] for index in range(len(source))]
    texts = {
        "source": source.name,
        "modality": source.modality,
        "side_px": side_px,
        "greys": greys.to_dict(),
        "names": [pair.name for pair in pairs],
        "labels": [pair.label for pair in pairs],
    }
    if not _holds(folder, texts):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder, (_RGB, _OTHER, _TEXTS)) as new:
            _decode(pairs, new, partial(_squares, source.modality, side_px, greys), side_px)
            _check_range(new, source, greys)
            # Last, because it declares the arrays complete.
            (new / _TEXTS).write_text(json.dumps(texts), "utf-8")
    rgb, other = (np.load(folder / name, mmap_mode="r") for name in (_RGB, _OTHER))
    return PairArrays(rgb, other, [p.name for p in pairs], [p.label for p in pairs])


def _holds(folder: Path, texts: dict[str, object]) -> bool:
    try:
        return bool(json.loads((folder / _TEXTS).read_text("utf-8")) == texts)
    except (OSError, ValueError):
        return False


def _decode(pairs: list[Pair], folder: Path, squares: partial[Sides], side_px: int) -> None:
    shape = (len(pairs), side_px, side_px)
    rgb, other = (
        np.lib.format.open_memmap(folder / name, "w+", np.uint8, (*shape, *channels))
        for name, channels in ((_RGB, (3,)), (_OTHER, ()))
    )
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        decoded = workers.map(squares, pairs, chunksize=_PAIRS_PER_TASK)
        bar = tqdm(decoded, total=len(pairs), desc="decode pairs", unit="pair")
        for index, (colour, grey) in enumerate(bar):
            rgb[index], other[index] = colour, grey
    for array in (rgb, other):
        array.flush()


def _check_range(folder: Path, source: PairSource, greys: RangeSettings) -> None:
    """ConfigError if a fixed range leaves most of the pixels the darkest or the brightest grey."""
    if greys.fixed is None:
        return
    some = np.load(folder / _OTHER, mmap_mode="r")[:_PAIRS_TO_CHECK]
    measured = some[some > 0]
    clipped = float(np.mean((measured == 1) | (measured == 255))) if len(measured) else 0.0
    if clipped > _MAX_CLIPPED:
        unit = "metres" if source.modality == "depth" else "values as stored"
        raise ConfigError(
            f"{source.name}: expected a fixed range of {source.modality} in {unit}, got "
            f"{greys.fixed}, beyond which {clipped:.0%} of the pixels are; correct "
            "pairs.fixed_range, or set it to null"
        )


def _squares(modality: Modality, side_px: int, greys: RangeSettings, pair: Pair) -> Sides:
    loaded = load_pair(pair, modality)
    view = view_of(Image.fromarray(loaded.rgb.values), student_processor(side_px))
    try:
        grey = grey_image(loaded.other, greys)
    except InvalidInput as error:
        raise InvalidInput(f"pair {pair.name}: {error}") from error
    values, valid = resize_valid(grey.values.astype(np.float32), grey.valid, (side_px, side_px))
    return view.pixels, np.where(valid, np.rint(values), 0).astype(np.uint8)
