"""Opens a source of examples by its name, such as `llava:FILE.json`."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.image_folder import ImageFolder
from aligned_vq.data.llava_json import LlavaJson
from aligned_vq.data.reference_world import ReferenceWorld
from aligned_vq.data.vqav2 import VQAv2
from aligned_vq.errors import ConfigError

CHECKED_AT_START = 16
"""Examples that `open_source` reads at once, so that a wrong folder fails before training."""
_FORMS = (
    "reference:SCENES, llava:FILE.json, llava:FILE.json#IMAGE_FOLDER, vqav2:FOLDER, "
    "vqav2:FOLDER#val2014 or images:FOLDER"
)


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
    match kind:
        case "reference":
            if not (place.isascii() and place.isdecimal() and int(place) > 0):
                raise _unknown(spec)
            source: ExampleSource = ReferenceWorld(workdir, int(place))
        case "llava":
            source = LlavaJson(path, Path(choice).expanduser() if choice else None, workdir)
        case "vqav2":
            source = VQAv2(path, choice or "train2014", workdir)
        case "images":
            source = ImageFolder(path)
        case _:
            raise _unknown(spec)
    for index in range(min(CHECKED_AT_START, len(source))):
        source[index]
    return source


def _unknown(spec: str) -> ConfigError:
    return ConfigError(f"expected training data as {_FORMS}, got {spec!r}: write it like one")
