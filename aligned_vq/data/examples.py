"""What training reads: images with questions and answers, by index.

Sources are random access, so a batch depends on the seed and the step alone and a resumed run sees
exactly what the interrupted one would have seen.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from PIL import Image


class QuestionAnswer(NamedTuple):
    """One question as a person asks it, without image marker, and its answer; both plain text."""

    text: str
    answer: str


class Example(NamedTuple):
    """An upright 8-bit RGB picture of any size, and what is asked about it.

    `pairs` is in the order of the conversation and may be empty: a picture without labels.
    """

    image: Image.Image
    pairs: tuple[QuestionAnswer, ...]


class ExampleSource(Protocol):
    """A fixed, ordered collection of examples.

    Sources pickle in little space, hold no open file position, and may be read by several threads
    and by forked processes at once. The same index gives the same example every time.
    """

    def __len__(self) -> int:
        """How many examples there are, at least one."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example `index`, counted from 0.

        Raises:
            IndexError: There is no such example.
            ConfigError: The file behind it is gone or has changed.
            InvalidInput: Its picture is damaged.
        """
        ...
