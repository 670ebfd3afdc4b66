"""What the readers of data sets share: lists of stems, labels, and pairs whose files exist."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError
from aligned_vq.images.modality import Modality


def check_split(split: str, splits: Sequence[str], data_set: str) -> None:
    """Raise ConfigError if a data set has no such split."""
    if split not in splits:
        raise ConfigError(
            f"expected a split of {data_set} ({', '.join(splits)}), got {split!r}; name one of "
            "these"
        )


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a list, without white space around them and without empty ones.

    Raises:
        ConfigError: the file is missing, unreadable or empty, or lists something twice.
    """
    lines = [line.strip() for line in _read(path, what).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise ConfigError(f"expected {what} in {path}, one a line, got none; name a full list")
    (most_common, count), *_ = Counter(lines).most_common(1)
    if count > 1:
        raise ConfigError(
            f"expected {what} in {path}, each once, got {most_common!r} {count} times; remove "
            "the others"
        )
    return lines


def read_label(path: Path) -> str:
    """The first line of a label's file, verbatim but for white space around it.

    Raises:
        ConfigError: the file is missing or unreadable, or the line is empty.
    """
    label = _read(path, "a label").split("\n", 1)[0].strip()
    if not label:
        raise ConfigError(f"expected a label in the first line of {path}, got none; write one")
    return label


def pair_list(name: str, modality: Modality, pairs: Sequence[Pair]) -> PairList:
    """A source of these pairs, all of whose files exist.

    Raises:
        ConfigError: there is no pair, or a file is missing.
    """
    if not pairs:
        raise ConfigError(f"expected pairs of images in {name}, found none; name another folder")
    halves = [(pair, path) for pair in pairs for path in (pair.rgb, pair.other)]
    missing = [(pair, path) for pair, path in halves if not os.path.isfile(path)]
    if missing:
        pair, path = missing[0]
        raise ConfigError(
            f"{name}, pair {pair.name}: expected an image at {path}, found no such file (missing "
            f"{len(missing)} of {len(halves)}); unpack the data set whole, or shorten its list"
        )
    return PairList(name, modality, tuple(pairs))


def image_stems(folder: Path, suffixes: Sequence[str], *, below: bool = False) -> dict[str, Path]:
    """Images of a folder by their path in it without the suffix, in the order of these.

    Args:
        folder: to list; names that start with a dot are skipped.
        suffixes: of images, in lower case.
        below: list folders in it, too.

    Raises:
        ConfigError: the folder is missing or has no such image, or two differ only in the suffix.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a folder of images at {folder}, found none; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if below else folder.iterdir()):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix.lower() not in suffixes:
            continue
        stem = relative.with_suffix("").as_posix()
        if stem in found:
            raise ConfigError(
                f"expected one image of each name, got {found[stem]} and {path}; remove one"
            )
        found[stem] = path
    if not found:
        raise ConfigError(
            f"expected images ({' '.join(suffixes)}) in {folder}, found none; name a folder with "
            "images"
        )
    return found


def matched(rgb: dict[str, Path], other: dict[str, Path], name: str) -> list[str]:
    """The stems of both listings, which are equal.

    Raises:
        ConfigError: an image has no counterpart.
    """
    if single := sorted(rgb.keys() ^ other.keys()):
        path = rgb.get(single[0]) or other[single[0]]
        raise ConfigError(
            f"{name}: expected two images of each name, found only {path} ({len(single)} without "
            "a counterpart); add the missing halves, or remove these"
        )
    return list(rgb)


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected {what} in the text file {path}, got {error}; name the folder of the data "
            "set, unpacked whole"
        ) from error
