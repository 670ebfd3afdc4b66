"""Opening of example sources by specification, such as `llava:FILE.json`."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.image_folder import ImageFolder
from aligned_vq.data.llava_json import LlavaJson
from aligned_vq.data.reference_world import ReferenceWorld
from aligned_vq.data.vqav2 import VQAv2
from aligned_vq.errors import ConfigError

CHECKED_AT_START = 16
"""Examples that `open_source` reads, so that a wrong image folder is reported before training."""
_FORMS = (
    "reference:SCENES, llava:FILE.json, llava:FILE.json#IMAGE_FOLDER, vqav2:FOLDER, "
    "vqav2:FOLDER#val2014 or images:FOLDER"
)


def open_source(spec: str, workdir: Path) -> ExampleSource:
    """The source that `spec` names; its first `CHECKED_AT_START` examples are read as a check.

    Args:
        spec: One of the following; `~` is the home directory, and paths must not contain `#`.
            `reference:6000`: that many scenes of the reference world's codec split.
            `llava:/folder/file.json`: LLaVA's conversations, with images relative to the file's
            folder, or to the folder after a `#`.
            `vqav2:/folder`: the official VQAv2 files of `train2014`, or of the split after a `#`.
            `images:/folder`: all images below the folder, without questions.
        workdir: Folder for indices and rendered scenes, created if missing.

    Raises:
        ConfigError: The spec is not of these forms, files are missing, or a record is malformed.
        InvalidInput: One of the first images is damaged.
    """
    kind, _, rest = spec.partition(":")
    location, hash_sign, option = rest.partition("#")
    takes_option = kind in ("llava", "vqav2")
    if not location or (hash_sign and not (takes_option and option)):
        raise _unknown(spec)
    path = Path(location).expanduser()
    match kind:
        case "reference":
            # `isdecimal` alone accepts the digits of all scripts.
            if not (location.isascii() and location.isdecimal() and int(location) > 0):
                raise _unknown(spec)
            source: ExampleSource = ReferenceWorld(workdir, int(location))
        case "llava":
            source = LlavaJson(path, Path(option).expanduser() if option else None, workdir)
        case "vqav2":
            source = VQAv2(path, option or "train2014", workdir)
        case "images":
            source = ImageFolder(path)
        case _:
            raise _unknown(spec)
    for index in range(min(CHECKED_AT_START, len(source))):
        source[index]
    return source


def _unknown(spec: str) -> ConfigError:
    return ConfigError(f"expected training data as {_FORMS}, got {spec!r}: use one of these forms")
