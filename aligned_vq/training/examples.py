"""What training reads: pictures with questions and answers, by index, from several formats.

Sources are random access, so a batch depends on the seed and the step alone and a resumed run sees
exactly what the interrupted one would have seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from aligned_vq.errors import ConfigError

CHECKED_AT_START = 16
"""Examples that `open_source` reads at once, so that a wrong folder fails before training."""
_FORMS = (
    "reference:SCENES, llava:FILE.json, llava:FILE.json#IMAGE_FOLDER, vqav2:FOLDER, "
    "vqav2:FOLDER#val2014 or images:FOLDER"
)


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


def open_source(spec: str, workdir: Path) -> ExampleSource:
    """The examples that `spec` names, with the first `CHECKED_AT_START` read as a trial.

    Args:
        spec: `reference:6000`, that many scenes of the reference world's codec split;
            `llava:/folder/file.json`, LLaVA's conversations, images relative to the file's folder
            or to the one after a `#`; `vqav2:/folder`, the official VQAv2 files of `train2014`, or
            of the split after a `#`; `images:/folder`, every picture below it, without questions.
            `~` is the home directory; a path cannot hold a `#`.
        workdir: Where indices and rendered scenes are kept for the next start; made if missing.

    Raises:
        ConfigError: The spec is not of these forms, files are missing, or a record is malformed.
        InvalidInput: One of the first pictures is damaged.
    """
    kind, _, rest = spec.partition(":")
    place, hash_sign, choice = rest.partition("#")
    takes_choice = kind in ("llava", "vqav2")
    if not place or (hash_sign and not (takes_choice and choice)):
        raise _unknown(spec)
    path = Path(place).expanduser()
    # The sources import this module for its types, and the reference world brings its renderer.
    match kind:
        case "reference":
            from aligned_vq.training.reference_world import ReferenceWorld

            if not (place.isascii() and place.isdecimal() and int(place) > 0):
                raise _unknown(spec)
            source: ExampleSource = ReferenceWorld(workdir, int(place))
        case "llava":
            from aligned_vq.training.llava_json import LlavaJson

            source = LlavaJson(path, Path(choice).expanduser() if choice else None, workdir)
        case "vqav2":
            from aligned_vq.training.vqav2 import VQAv2

            source = VQAv2(path, choice or "train2014", workdir)
        case "images":
            from aligned_vq.training.pictures import PictureFolder

            source = PictureFolder(path)
        case _:
            raise _unknown(spec)
    for index in range(min(CHECKED_AT_START, len(source))):
        source[index]
    return source


def _unknown(spec: str) -> ConfigError:
    return ConfigError(f"expected training data as {_FORMS}, got {spec!r}: write it like one")
