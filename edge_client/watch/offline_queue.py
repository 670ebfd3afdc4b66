"""A queue on disk for questions with their payloads, while the cloud is unavailable."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from aligned_vq.bitstream import from_frame, to_frame
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.types import Payload

FILE_NAME = "kept.sqlite3"
MAX_TIME = 253_402_300_800.0
"""The year 10000, in seconds since 1970: `datetime` ends there."""
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS kept (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, number INTEGER NOT NULL,
        name TEXT NOT NULL, question TEXT NOT NULL, payload BLOB NOT NULL
    );
    CREATE TABLE IF NOT EXISTS dropped (count INTEGER NOT NULL);
    INSERT INTO dropped SELECT 0 WHERE NOT EXISTS (SELECT * FROM dropped);
"""
_SIZE = "SELECT TOTAL(LENGTH(payload) + LENGTH(CAST(question AS BLOB))) FROM kept"
_OLDEST = "(SELECT MIN(id) FROM kept)"
_SELECT = f"SELECT id, time, number, name, question, payload FROM kept WHERE id = {_OLDEST}"


@dataclass(frozen=True)
class QueuedQuestion:
    """A question in the queue, and the frame that it is about."""

    time: float
    """When the frame arrived, in seconds since 1970."""
    number: int
    name: str
    question: str = field(repr=False)
    payload: Payload = field(repr=False)
    id: int = 0
    """Row in the database; 0 before it is stored."""


class OfflineQueue:
    """A first-in, first-out queue. When it is full, the oldest questions are dropped and counted.

    Once `put` returns, the question is on disk and survives a crash; an interrupted write is rolled
    back when the file is next opened (SQLite with a write-ahead log). Only the folder's owner can
    read it.

    Args:
        folder: of the queue, for one process at a time; created if it does not exist.
        limit_bytes: of all payloads and questions together.

    Raises:
        ConfigError: the folder cannot be used, is accessible to others, or is used by another
            process; from every method: it cannot be read or written any more, as on a full disk.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        try:
            # `mkdir` does not change the mode of a folder that exists: it is checked below.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                raise ConfigError(
                    f"{folder}: expected a folder that only its owner can open, as payloads are "
                    "personal data, got one open to others; run chmod 700, or choose another"
                )
            self._open(folder / FILE_NAME)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigError(
                f"{folder}: expected a folder for the queue of one process, got: {error}; end the "
                "other process, or choose another folder"
            ) from error
        except sqlite3.Error as error:
            raise ConfigError(
                f"{folder / FILE_NAME}: expected a queue's database, got: {error}; move the file "
                "away, or choose another folder"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def __len__(self) -> int:
        with self._transaction() as database:
            return int(database.execute("SELECT COUNT(*) FROM kept").fetchone()[0])

    @property
    def dropped(self) -> int:
        """Number of questions dropped since the queue was created."""
        with self._transaction() as database:
            return _dropped(database)

    def put(self, queued: QueuedQuestion) -> None:
        """Add a question, and drop the oldest until all fit."""
        row = (queued.time, queued.number, queued.name, queued.question, to_frame(queued.payload))
        with self._transaction() as database:
            database.execute(
                "INSERT INTO kept (time, number, name, question, payload) VALUES (?, ?, ?, ?, ?)",
                row,
            )
            while database.execute(_SIZE).fetchone()[0] > self._limit_bytes:
                _drop_oldest(database)

    def oldest(self) -> QueuedQuestion | None:
        """The oldest question, which stays until it is removed; None if the queue is empty.

        Rows that are damaged or of an unknown version are dropped, and counted.
        """
        with self._transaction() as database:
            while (row := database.execute(_SELECT).fetchone()) is not None:
                queued = _from_row(row)
                if queued is not None:
                    return queued
                _drop_oldest(database)
        return None

    def remove(self, queued: QueuedQuestion) -> None:
        """Remove a question that was answered or cannot be."""
        with self._transaction() as database:
            database.execute("DELETE FROM kept WHERE id = ?", (queued.id,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: rolled back if the block raises; errors of SQLite become ConfigError."""
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise ConfigError(
                f"{self._folder}: expected a queue that can be read and written, got: {error}; "
                "free some space there, or choose another folder"
            ) from error

    def _open(self, path: Path) -> None:
        # Opened in one thread and used in another, but never in two at the same time.
        self._database = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
        # `_from_row` decodes text: if sqlite3 did, one damaged text would fail every query.
        self._database.text_factory = bytes
        try:
            # Held until the database is closed: two processes would ask the same questions.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            # `put` returns only once the question is on disk, and `remove` erases its content.
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.executescript(_SCHEMA)
        except BaseException:
            with suppress(sqlite3.Error), closing(self._database):
                pass
            raise


def _from_row(row: tuple[object, ...]) -> QueuedQuestion | None:
    """The question in a row; None if the row is damaged. A SQLite column may hold any type."""
    key, time, number, name, question, payload = row
    if not (
        isinstance(key, int)
        and isinstance(time, float)
        and 0 <= time < MAX_TIME
        and isinstance(number, int)
        and isinstance(name, bytes)
        and isinstance(question, bytes)
        and isinstance(payload, bytes)
    ):
        return None
    try:
        return QueuedQuestion(
            time, number, name.decode(), question.decode(), from_frame(payload), key
        )
    except (CorruptPayload, UnicodeDecodeError):
        return None


def _dropped(database: sqlite3.Connection) -> int:
    """Number of dropped questions; 0 if the stored number is damaged."""
    (count,) = database.execute("SELECT TOTAL(count) FROM dropped").fetchone()
    return int(count) if math.isfinite(count) else 0


def _drop_oldest(database: sqlite3.Connection) -> None:
    database.execute(f"DELETE FROM kept WHERE id = {_OLDEST}")
    database.execute("UPDATE dropped SET count = ?", (_dropped(database) + 1,))
