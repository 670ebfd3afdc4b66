"""What a fuzz target is, and what several of them share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's plain mutation: of some bytes, to at most so many."""


@dataclass(frozen=True)
class Target:
    """Code under test, and how to reach deep into it.

    Args:
        name: of its folders and on the command line.
        check: runs the code on an input and raises where its invariant does not hold.
        seeds: inputs to begin with.
        vary: another input, by structure rather than by bytes, of at most `max_bytes`.
        max_bytes: of an input.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    vary: Callable[[random.Random, bytes, Mutate], bytes]
    max_bytes: int

    def corpus(self) -> list[Path]:
        """The inputs in the repository: cases, then the corpus."""
        return [
            path
            for folder in ("cases", "corpus")
            for path in sorted((HERE / folder / self.name).glob("*"))
        ]


def split(data: bytes) -> list[bytes]:
    """The pieces of an input, each behind its length in two little-endian bytes; a length may
    announce more than there is."""
    pieces = []
    while data:
        length = int.from_bytes(data[:2], "little")
        pieces.append(data[2 : 2 + length])
        data = data[2 + length :]
    return pieces


def join(pieces: Iterable[bytes]) -> bytes:
    """The input that `split` takes apart into `pieces`."""
    return b"".join(len(piece).to_bytes(2, "little") + piece for piece in pieces)


def vary_pieces(
    rng: random.Random, pieces: Sequence[bytes], vary_one: Callable[[bytes], bytes]
) -> list[bytes]:
    """Pieces with one varied, dropped, repeated or moved."""
    found = list(pieces)
    if not found:
        return [vary_one(b"")]
    place = rng.randrange(len(found))
    match rng.randrange(8):
        case 0:
            del found[place]
        case 1:
            found.insert(rng.randrange(len(found) + 1), found[place])
        case 2:
            found.insert(rng.randrange(len(found)), found.pop(place))
        case _:
            found[place] = vary_one(found[place])
    return found
