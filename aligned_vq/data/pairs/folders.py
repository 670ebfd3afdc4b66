"""Two folders with images of the same names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from aligned_vq.data.pairs.listing import image_stems, matched, pair_list
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.images.formats import SUFFIXES
from aligned_vq.images.modality import Modality


def read_folders(rgb: Path, other: Path, modality: Modality) -> PairList:
    """The pairs of two folders and of the folders in them, ordered by name; suffixes may differ.

    The label is the name of the folder that an image lies in, None for images directly in `rgb`.
    Every pair is a scene of its own.

    Raises:
        ConfigError: a folder is missing or empty, or an image has no counterpart.
    """
    name = f"folders:{rgb} and {other}"
    images = image_stems(rgb, SUFFIXES, below=True)
    others = image_stems(other, SUFFIXES, below=True)
    pairs = []
    for stem in matched(images, others, name):
        # The parent of a name without a folder has no name.
        label = PurePosixPath(stem).parent.name or None
        pairs.append(Pair(stem, images[stem], others[stem], label, stem))
    return pair_list(name, modality, pairs)
