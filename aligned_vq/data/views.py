"""Two images of one view, in colour and of another camera, with questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image

from aligned_vq.data.examples import QuestionAnswer
from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.split import hold_out, position_of
from aligned_vq.data.pairs.types import PairSource, load_pair
from aligned_vq.data.scenes.exam import two_camera_scene
from aligned_vq.data.scenes.scene import Split
from aligned_vq.errors import ConfigError
from aligned_vq.images.modality import CAMERA_MODALITIES, Modality, Pixels

MODALITIES = tuple(own for own in CAMERA_MODALITIES if own != "rgb")
"""Those beside rgb of which prefixes are trained."""


class ViewPair(NamedTuple):
    """One view in colour and of another modality; both images show the same part of it."""

    rgb: Image.Image
    other: Pixels
    questions: tuple[QuestionAnswer, ...]
    """An empty answer: only the question is known."""


class ViewSource(Protocol):
    """Views by index, whose other images are of one modality."""

    @property
    def name(self) -> str:
        """What it reads, for messages and to tell it from other sources."""

    def __len__(self) -> int:
        """Number of views, at least 1."""

    def __getitem__(self, index: int) -> ViewPair:
        """The view at `index`; always the same.

        Raises:
            ConfigError: a file is missing.
            InvalidInput: a file is damaged, or two images differ in aspect.
        """


@dataclass(frozen=True)
class SceneViews:
    """Some scenes of the reference world with questions that need no colour.

    Args:
        modality: depth or infrared.
        split: of the scenes.
        indices: in the split.
        num_questions: the most for each scene.
    """

    modality: Modality
    split: Split
    indices: Sequence[int]
    num_questions: int

    @property
    def name(self) -> str:
        """See `ViewSource`."""
        first, last, count = self.indices[0], self.indices[-1], len(self.indices)
        return f"{count} scenes of {self.split} from {first} to {last}, {self.modality}"

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.indices)

    def __getitem__(self, index: int) -> ViewPair:
        """See `ViewSource`."""
        scene = two_camera_scene(self.modality, self.split, self.indices[index], self.num_questions)
        questions = tuple(QuestionAnswer(q.text, q.answer) for q in scene.questions)
        return ViewPair(scene.image, scene.other, questions)


@dataclass(frozen=True)
class FileViews:
    """Pairs of image files, about each of which the same questions are asked."""

    pairs: PairSource
    questions: tuple[str, ...]

    @property
    def name(self) -> str:
        """See `ViewSource`."""
        return f"{self.pairs.name}, {self.pairs.modality}"

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> ViewPair:
        """See `ViewSource`."""
        pixels = load_pair(self.pairs[index], self.pairs.modality)
        questions = tuple(QuestionAnswer(text, "") for text in self.questions)
        return ViewPair(Image.fromarray(pixels.rgb.values), pixels.other, questions)


def open_views(
    spec: str, modality: Modality, questions: Sequence[str], per_image: int, held_out: float
) -> tuple[ViewSource, ViewSource]:
    """The training part and the validation part of the data that `spec` names.

    Args:
        spec: `reference:3000`: that many scenes of the reference world's codec split, each with
            questions of its own; or pairs of image files, see `open_pairs`, of which the split
            `train` is read.
        modality: of the other images.
        questions: to ask about every pair of files; none for scenes.
        per_image: limit of questions about one image; the first ones are kept.
        held_out: share of the scenes in the validation part, approximately, above 0 and below 1.

    Raises:
        ConfigError: there are no such data, or none of this modality; questions are missing, or
            there are some for scenes; a part would be empty.
        InvalidInput: one of the first pairs is damaged, or its images differ in aspect.
    """
    kind, _, number = spec.partition(":")
    if kind == "reference":
        return _open_scenes(number, modality, questions, per_image, held_out)
    if not questions:
        raise ConfigError(
            f"expected questions to ask about the images of {spec}, got none; list some as "
            "data.questions"
        )
    source = open_pairs(spec, "train")
    if source.modality != modality:
        raise ConfigError(
            f"expected pairs of rgb and {modality}, got {source.modality} in {spec}; name other "
            f"data, or set modality to {source.modality}"
        )
    training, validation = hold_out(source, held_out)
    asked = tuple(questions[:per_image])
    return FileViews(training, asked), FileViews(validation, asked)


def _open_scenes(
    number: str, modality: Modality, questions: Sequence[str], per_image: int, held_out: float
) -> tuple[SceneViews, SceneViews]:
    # `isdecimal` alone accepts the digits of all scripts.
    if not (number.isascii() and number.isdecimal() and int(number)):
        raise ConfigError(f"expected a number of scenes, as in reference:3000, got {number!r}")
    if questions:
        raise ConfigError(
            "expected no questions for the reference world, whose scenes have their own, got "
            f"{len(questions)}; remove data.questions"
        )
    held = [position_of(f"scene {index}") < held_out for index in range(int(number))]
    if all(held) or not any(held):
        raise ConfigError(
            f"expected scenes for training and for validation, got {number} scenes, all on one "
            f"side at a share of {held_out:g}; take more scenes"
        )
    training, validation = (
        tuple(index for index, out in enumerate(held) if out == side) for side in (False, True)
    )
    parts = (SceneViews(modality, "codec", part, per_image) for part in (training, validation))
    return next(parts), next(parts)
