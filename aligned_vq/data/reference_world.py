"""Scenes of the reference world as training examples."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from aligned_vq.data.examples import Example, QuestionAnswer
from aligned_vq.data.scenes.pool import ScenePool
from aligned_vq.data.scenes.questions import describe, short_questions

SHORT_QUESTIONS = 8
"""Maximum number of short questions per scene, in addition to the description."""


class ReferenceWorld:
    """The first `count` scenes of the codec split, rendered into `workdir` on first use.

    Each has up to `SHORT_QUESTIONS` short questions and a description, always the same.
    """

    def __init__(self, workdir: Path, count: int) -> None:
        self._workdir = workdir
        self._pool = ScenePool(workdir, "codec", count)

    def __reduce__(self) -> tuple[type[ReferenceWorld], tuple[Path, int]]:
        # Pickling a memory map would copy its pixels, so the pool is opened again instead.
        return ReferenceWorld, (self._workdir, self._pool.count)

    def __len__(self) -> int:
        """Number of scenes."""
        return self._pool.count

    def __getitem__(self, index: int) -> Example:
        """Scene `index`; see `ExampleSource`."""
        # As for a list: negative indices, and IndexError beyond the end.
        index = range(len(self))[index]
        scene, rng = self._pool.scene(index)
        questions = [*short_questions(scene, rng, SHORT_QUESTIONS), describe(scene, rng)]
        pairs = tuple(QuestionAnswer(item.text, item.answer) for item in questions)
        return Example(Image.fromarray(self._pool.pixels(index)), pairs)
