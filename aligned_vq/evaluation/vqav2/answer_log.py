"""A model's answers on disk, saved question by question, so that a killed job can be resumed."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_json

NAME = "checkpoint"
"""Key of the model's name in a row's identity: informative, not compared."""
_IDENTITY_FILE = "row.json"


class AnswerRecord(NamedTuple):
    """A model's answer to one question."""

    question_id: int
    image_id: int
    answer: str
    """Not normalised."""
    payload_bytes: int | None
    """Size of the image's payload body; None if no payload was sent."""


class AnswerLog:
    """Appends answers to a file of JSON lines.

    A killed process may leave an incomplete last line, which is removed on opening.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, process: int) -> None:
        path = folder / f"answers-{process:03}.jsonl"
        self._file = path.open("a+b")
        self._file.seek(0)
        # Cuts off what follows the last line break; without any, `rfind` returns -1.
        self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, answers: Iterable[AnswerRecord]) -> None:
        """Append answers; once this returns, they survive the end of the process."""
        lines = (json.dumps(answer._asdict()) + "\n" for answer in answers)
        self._file.write("".join(lines).encode())
        # Flushed, not synced: only a crash of the machine can lose answers.
        self._file.flush()


def read_answers(folder: Path) -> dict[int, AnswerRecord]:
    """All complete answers in a row's folder, of all processes, by question id.

    Raises:
        ConfigError: a line before the last of a file is not an answer.
    """
    answers: dict[int, AnswerRecord] = {}
    for path in sorted(folder.glob("answers-*.jsonl")):
        *lines, _ = path.read_bytes().split(b"\n")  # the last part is empty or an incomplete line
        for number, line in enumerate(lines, 1):
            answer = _parse(line)
            if answer is None:
                raise ConfigError(
                    f"{path}, line {number}: expected an answer, got {line[:60]!r}; remove the "
                    "line, and its question is asked again"
                )
            # An answer that two jobs have given counts once.
            answers.setdefault(answer.question_id, answer)
    return answers


def claim(folder: Path, identity: Mapping[str, Any], answered: bool) -> None:
    """Create a row's folder, or check that its answers are those of the same row.

    A folder without answers is claimed again, because an earlier claim may have had wrong settings.
    No other process may write to the folder meanwhile.

    Args:
        folder: of the row.
        identity: the row's settings as JSON values.
        answered: whether the folder has answers.

    Raises:
        ConfigError: the folder has answers with other settings.
    """
    path = folder / _IDENTITY_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not (answered and path.exists()):
        write_json(path, identity)
    saved = _read_identity(folder)
    different = _differences(saved, identity)
    if different:
        raise ConfigError(
            f"{folder}: expected the settings of the answers in it, "
            f"{_describe(saved, different)}, got {_describe(identity, different)}; use the same "
            "settings, or another --out"
        )


def has_identity(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a row's folder was claimed with the same values for the keys of `identity`.

    Raises:
        ConfigError: the folder's identity file is damaged.
    """
    claimed = (folder / _IDENTITY_FILE).is_file()
    return claimed and not _differences(_read_identity(folder), identity)


def _read_identity(folder: Path) -> dict[str, Any]:
    path = folder / _IDENTITY_FILE
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); remove {folder}") from error
    if not isinstance(identity, dict):
        raise ConfigError(f"{path}: expected an object, got {identity!s:.60}; remove {folder}")
    return identity


def _differences(saved: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    return [key for key, value in identity.items() if key != NAME and saved.get(key) != value]


def _describe(identity: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Keys with shortened values; older versions did not save every key."""
    shown = {key: reprlib.repr(identity[key]) if key in identity else "unknown" for key in keys}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _parse(line: bytes) -> AnswerRecord | None:
    try:
        answer = AnswerRecord(**json.loads(line))
    except (TypeError, ValueError):  # TypeError: other fields
        return None
    numbers = (answer.question_id, answer.image_id)
    valid = all(type(number) is int for number in numbers) and isinstance(answer.answer, str)
    return answer if valid and isinstance(answer.payload_bytes, int | None) else None
