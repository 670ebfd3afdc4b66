"""LLaVA's conversations: LLaVA-Instruct and LLaVA-665K JSON files with their image folders.

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

# Where the image goes is the prompt's business. Only a marker that begins or ends a turn is one;
# elsewhere it is what somebody wrote.
_MARKER = re.compile(r"\A\s*<image>\s*|\s*<image>\s*\Z")
_MEND = "mend the record or take it out"


class LlavaJson:
    """The records of a LLaVA JSON file that have an image; text-only ones are left out.

    The file is checked and indexed at the first start and never
    held: see `RecordFile`.

    Args:
        path: The JSON file.
        images: The folder that the records' image paths start from; None: where the file lies.
        workdir: Where the index is kept.

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
        """How many records with an image there are."""
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
            f"{image!r:.80}; {_MEND}"
        )
    _pairs(record)
    return ()


def _pairs(record: Record) -> tuple[QuestionAnswer, ...]:
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise ConfigError(
            f"{record.name}: expected 'conversations' to be a list of turns, got "
            f"{turns!s:.80}; {_MEND}"
        )
    speakers = [turn.get("from") for turn in turns]
    if speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ConfigError(
            f"{record.name}: expected turns from human and gpt in alternation, human first and "
            f"gpt last, got {speakers!s:.80}; {_MEND}"
        )
    texts = [record.text(t.get("value"), f"'value' of turn {n}") for n, t in enumerate(turns)]
    return tuple(
        QuestionAnswer(_MARKER.sub("", question, count=1), answer)
        for question, answer in zip(texts[::2], texts[1::2], strict=True)
    )
