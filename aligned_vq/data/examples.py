"""Training examples, images with questions and answers, and the interface of their sources.

Sources have random access, so that a batch depends only on the seed and the step, and a resumed run
sees the examples of an uninterrupted one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from PIL import Image


class QuestionAnswer(NamedTuple):
    """A question, without an image marker, and its answer; both plain text."""

    text: str
    answer: str


class Example(NamedTuple):
    """An upright 8-bit RGB image of any size with questions and answers.

    `pairs` are in the order of the conversation; empty for images without labels.
    """

    image: Image.Image
    pairs: tuple[QuestionAnswer, ...]


class ExampleSource(Protocol):
    """A fixed, ordered collection of examples.

    An index always gives the same example. Sources are cheap to pickle, keep no file open, and may
    be used by several threads and by forked processes at once.
    """

    def __len__(self) -> int:
        """Number of examples, at least one."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example `index`, from 0.

        Raises:
            IndexError: There is no such example.
            ConfigError: Its file is missing or has changed.
            InvalidInput: Its image is damaged.
        """
        ...
