"""Small files in every format that training reads, for the tests of its sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.sources import open_source
from aligned_vq.errors import AlignedVQError, ConfigError

TRICKY = 'brace } bracket ] quote " comma , backslash \\ \\" é 日本 \U0001f600 \n\t{"image": [1'
WRITERS: dict[str, Callable[[Any], str]] = {
    "compact": lambda data: json.dumps(data, separators=(",", ":")),
    "pretty": lambda data: json.dumps(data, indent=2),
    "unicode": lambda data: json.dumps(data, ensure_ascii=False, indent="\t"),
    "bom": lambda data: "\ufeff" + json.dumps(data, ensure_ascii=False) + "\r\n",
}


def paint(path: Path, shade: int = 100, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), shade if mode in ("L", "I;16") else (shade,) * len(mode)).save(
        path, **options
    )
    return path


def conversation(image: str | None, *texts: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": "a1", **({"image": image} if image else {}), "conversations": turns, **fields}


def shade(source: ExampleSource, index: int) -> int:
    image = source[index].image
    assert image.mode == "RGB"
    return int(np.asarray(image).mean().round())


def assert_refused(
    act: Callable[[], object], *named: object, kind: type[AlignedVQError] = ConfigError
) -> None:
    """One error of `kind` with these words, and with what to do after a semicolon or colon."""
    with pytest.raises(kind) as caught:
        act()
    words = str(caught.value)
    assert all(str(name) in words for name in named), words
    assert "expected" in words
    assert "; " in words or ": " in words


class LlavaFolder:
    """A small LLaVA file with two records about images and one without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "chat.json"
        self.records = [
            conversation("a.png", "<image>\n" + TRICKY, "x " + TRICKY, "What </s>?", ""),
            conversation(None, "hello", "hi", id="text"),
            conversation("sub/b.png", "What <image> is?\n<image>", "A \\ tag.", id=7),
        ]
        paint(folder / "a.png", 10)
        paint(folder / "sub/b.png", 20)
        self.write()

    def write(self, how: str = "compact") -> None:
        self.path.write_text(WRITERS[how](self.records), encoding="utf-8")

    def open(self, workdir: Path) -> ExampleSource:
        return open_source(f"llava:{self.path}", workdir)


class VqaFolder:
    """Official files of a small split: two images, three questions, in an unhelpful order."""

    def __init__(self, folder: Path, split: str = "train2014") -> None:
        self.folder, self.split = folder, split
        asked = [(524291, 5242910, TRICKY, "é"), (9, 90, "Is it?", "yes"), (524291, 1, "How?", "2")]
        self.questions = [{"image_id": i, "question": q, "question_id": n} for i, n, q, _ in asked]
        self.annotations = [
            {
                "question_type": "how",
                "multiple_choice_answer": answer,
                "answers": [{"answer": "no", "answer_confidence": "yes", "answer_id": 1}],
                "image_id": image,
                "answer_type": "other",
                "question_id": number,
            }
            for image, number, _, answer in reversed(asked)
        ]
        for image in (9, 524291):
            paint(self.image(image), image % 251)
        self.write()

    def image(self, number: int) -> Path:
        return self.folder / self.split / f"COCO_{self.split}_{number:012d}.jpg"

    def paths(self) -> tuple[Path, Path]:
        return (
            self.folder / f"v2_OpenEnded_mscoco_{self.split}_questions.json",
            self.folder / f"v2_mscoco_{self.split}_annotations.json",
        )

    def write(self, how: str = "compact") -> None:
        rest = {"info": {"questions": [1]}, "license": {}, "data_subtype": self.split, "version": 2}
        questions, annotations = self.paths()
        questions.write_text(WRITERS[how](rest | {"questions": self.questions}), "utf-8")
        annotations.write_text(
            WRITERS[how]({"annotations": self.annotations} | rest), "utf-8"
        )  # its array comes first

    def open(self, workdir: Path) -> ExampleSource:
        return open_source(f"vqav2:{self.folder}", workdir)
