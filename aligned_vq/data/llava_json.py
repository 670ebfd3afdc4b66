"""LLaVA's training conversations: JSON files of LLaVA-Instruct or LLaVA-665K, and their images.

[{"id": ..., "image": "coco/train2017/000000033471.jpg",
  "conversations": [{"from": "human", "value": "<image>\\nWhat ...?"},
                    {"from": "gpt", "value": "..."}, ...]}, ...]
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from aligned_vq.data.examples import Example, QuestionAnswer
from aligned_vq.data.image_folder import open_image
from aligned_vq.data.json_stream import Record
from aligned_vq.data.record_file import RecordFile
from aligned_vq.errors import ConfigError

_log = logging.getLogger(__name__)

# The image marker is removed, because the chat template adds it. Only at the start or end of a turn
# is it a marker; elsewhere it belongs to the text.
_MARKER = re.compile(r"\A\s*<image>\s*|\s*<image>\s*\Z")
_REMEDY = "correct or remove the record"


class LlavaJson:
    """The records with an image in a LLaVA JSON file.

    The file is checked and indexed on first use, and not kept in memory; see `RecordFile`.

    Args:
        path: The JSON file.
        images: Base folder of the records' image paths; None: the file's folder.
        workdir: Folder for the index.

    Raises:
        ConfigError: The file cannot be read or parsed, a record with an image is malformed, or
            none has an image.
    """

    def __init__(self, path: Path, images: Path | None, workdir: Path) -> None:
        self._records = RecordFile(path, workdir, "llava-1", _summary)
        self._images = path.parent if images is None else images
        _log.info(
            "%s: %d conversations about an image; %d records without one left out",
            path,
            len(self._records),
            self._records.left_out,
        )

    def __len__(self) -> int:
        """Number of records with an image."""
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Record `index` of those with an image; see `ExampleSource`."""
        (record,) = self._records.read([index])
        remedy = (
            "complete the image folder, or name another after a '#', as in "
            f"llava:{record.path}#/path/to/images"
        )
        image = open_image(self._images / record.fields["image"], record.name, remedy)
        return Example(image, _pairs(record))


def _summary(record: Record) -> tuple[int, ...] | None:
    image = record.fields.get("image")
    if image is None:
        return None
    if not isinstance(image, str) or not image:
        raise ConfigError(
            f"{record.name}: expected 'image' to be the path of one file, got "
            f"{image!r:.80}; {_REMEDY}"
        )
    _pairs(record)  # a check only
    return ()


def _pairs(record: Record) -> tuple[QuestionAnswer, ...]:
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise ConfigError(
            f"{record.name}: expected 'conversations' to be a list of turns, got "
            f"{turns!s:.80}; {_REMEDY}"
        )
    speakers = [turn.get("from") for turn in turns]
    if speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ConfigError(
            f"{record.name}: expected turns from human and gpt in alternation, human first and "
            f"gpt last, got {speakers!s:.80}; {_REMEDY}"
        )
    texts = [record.text(t.get("value"), f"'value' of turn {n}") for n, t in enumerate(turns)]
    return tuple(
        QuestionAnswer(_MARKER.sub("", question, count=1), answer)
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    )
