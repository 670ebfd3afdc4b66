"""A model's answers on disk, question by question, so that a job that was killed goes on."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file

NAME = "checkpoint"
"""In what a row says of itself, the name of its model: for people, and never compared."""
_IDENTITY = "row.json"


class Answered(NamedTuple):
    """One answer."""

    question_id: int
    image_id: int
    answer: str
    """As the model wrote it."""
    payload_bytes: int | None
    """Body of the image's payload; None where no payload was sent."""


class AnswerLog:
    """Appends answers to a file of JSON lines, each whole or, after a kill, cut off at its end.

    A cut-off end is removed when the file is opened again.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, process: int) -> None:
        path = folder / f"answers-{process:03}.jsonl"
        self._file = path.open("a+b")
        self._file.seek(0)
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, answers: Iterable[Answered]) -> None:
        """Write some answers; they survive the process from here on."""
        lines = (json.dumps(answer._asdict()) + "\n" for answer in answers)
        self._file.write("".join(lines).encode())
        self._file.flush()


def read_answers(folder: Path) -> dict[int, Answered]:
    """Every whole answer below a row's folder, whichever process wrote it, by question id.

    Raises:
        ConfigError: a line other than the last of a file is none of `AnswerLog`'s.
    """
    found: dict[int, Answered] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        *lines, _ = path.read_bytes().split(b"\n")  # behind the last end of a line: cut off
        for number, line in enumerate(lines, 1):
            answer = _parsed(line)
            if answer is None:
                raise ConfigError(
                    f"{path}, line {number}: expected an answer, got {line[:60]!r}; remove the "
                    "line, and its question is asked again"
                )
            found.setdefault(answer.question_id, answer)
    return found


def claim(folder: Path, identity: Mapping[str, Any], answered: bool) -> None:
    """Make a row's folder, or check that what is there was asked in the same way. A folder without
    answers is anybody's: what claimed it may have been mistaken. Nobody may write meanwhile.

    Args:
        folder: the row's.
        identity: how it is asked; JSON-able.
        answered: whether the folder holds answers, as `read_answers` says.

    Raises:
        ConfigError: it holds answers that were asked in another way.
    """
    path = folder / _IDENTITY
    folder.mkdir(parents=True, exist_ok=True)
    if not (answered and path.exists()):
        write_file(path, json.dumps(identity, indent=1) + "\n")
    kept = _kept(folder)
    different = _differences(kept, identity)
    if different:
        raise ConfigError(
            f"{folder}: expected what the answers in it were asked with, "
            f"{_words(kept, different)}, got {_words(identity, different)}; give that, or another "
            "--out"
        )


def asked_alike(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a row's folder was claimed, and by one that shares this.

    Raises:
        ConfigError: what the folder says of itself cannot be read.
    """
    return (folder / _IDENTITY).is_file() and not _differences(_kept(folder), identity)


def _kept(folder: Path) -> dict[str, Any]:
    path = folder / _IDENTITY
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); remove {folder}") from error
    if not isinstance(kept, dict):
        raise ConfigError(f"{path}: expected an object, got {kept!s:.60}; remove {folder}")
    return kept


def _differences(kept: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    return [key for key, value in identity.items() if key != NAME and kept.get(key) != value]


def _words(identity: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Of a long text its two ends; what an older version did not keep is nothing."""
    shown = {key: reprlib.repr(identity[key]) if key in identity else "untold" for key in keys}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _parsed(line: bytes) -> Answered | None:
    try:
        answer = Answered(**json.loads(line))
    except (TypeError, ValueError):
        return None
    numbers = (answer.question_id, answer.image_id)
    whole = all(type(number) is int for number in numbers) and isinstance(answer.answer, str)
    return answer if whole and isinstance(answer.payload_bytes, int | None) else None
