"""Questions that wait on disk until the cloud is back: payloads, bounded in bytes."""

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
"""The year 10000, in seconds since 1970: no calendar here has a later one."""
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
    """A question that waits."""

    time: float
    number: int
    name: str
    question: str = field(repr=False)
    payload: Payload = field(repr=False)
    id: int = 0


class OfflineQueue:
    """First in, first out. When there is no room the oldest are dropped, and counted.

    What `put` returned from is on disk: it outlives the process, and an interrupted write is undone
    when the file is opened the next time (SQLite, write-ahead log). The folder is readable by its
    owner only.

    Args:
        folder: of the queue, for one process at a time; made if it is not there.
        limit_bytes: of all payloads and questions together.

    Raises:
        ConfigError: the folder cannot be used, is open to others, or another process uses it; from
            every method: it cannot be read or written any more, as when the disk is full.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                raise ConfigError(
                    f"{folder}: expected a folder that only its owner can open, as payloads are "
                    "personal data, got one open to others; run chmod 700, or name another"
                )
            self._open(folder / FILE_NAME)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigError(
                f"{folder}: expected a folder for a queue of one process, got: {error}; end the "
                "other process, or name another folder"
            ) from error
        except sqlite3.Error as error:
            raise ConfigError(
                f"{folder / FILE_NAME}: expected a queue's database, got: {error}; move the file "
                "away, or name another folder"
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
        """Since the queue was made."""
        with self._transaction() as database:
            return _dropped(database)

    def put(self, kept: QueuedQuestion) -> None:
        """Keep a question, and drop the oldest until all fit."""
        row = (kept.time, kept.number, kept.name, kept.question, to_frame(kept.payload))
        with self._transaction() as database:
            database.execute(
                "INSERT INTO kept (time, number, name, question, payload) VALUES (?, ?, ?, ?, ?)",
                row,
            )
            while database.execute(_SIZE).fetchone()[0] > self._limit_bytes:
                _drop_oldest(database)

    def oldest(self) -> QueuedQuestion | None:
        """The one to ask next; it stays until it is removed. Rows of another version and those
        that were damaged on disk are dropped, and counted."""
        with self._transaction() as database:
            while (row := database.execute(_SELECT).fetchone()) is not None:
                found = _kept(row)
                if found is not None:
                    return found
                _drop_oldest(database)
        return None

    def remove(self, kept: QueuedQuestion) -> None:
        """It was answered, or never will be."""
        with self._transaction() as database:
            database.execute("DELETE FROM kept WHERE id = ?", (kept.id,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it is done, or nothing."""
        try:
            with self._database:
                yield self._database
        except sqlite3.Error as error:
            raise ConfigError(
                f"{self._folder}: expected a queue that can be read and written, got: {error}; "
                "free some space there, or name another folder"
            ) from error

    def _open(self, path: Path) -> None:
        # Opened in one thread, used in another, never in two at once.
        self._database = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
        # Decoded here: where SQLite does it, damaged text is an error of the whole queue.
        self._database.text_factory = bytes
        try:
            # Two processes would answer the same questions: the lock is held until the end.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.executescript(_SCHEMA)
        except BaseException:
            with suppress(sqlite3.Error), closing(self._database):
                pass
            raise


def _kept(row: tuple[object, ...]) -> QueuedQuestion | None:
    """A question that waits; None: its row is damaged. SQLite keeps values of any type."""
    key, at, number, name, question, payload = row
    if not (
        isinstance(key, int)
        and isinstance(at, float)
        and 0 <= at < MAX_TIME
        and isinstance(number, int)
        and isinstance(name, bytes)
        and isinstance(question, bytes)
        and isinstance(payload, bytes)
    ):
        return None
    try:
        return QueuedQuestion(
            at, number, name.decode(), question.decode(), from_frame(payload), key
        )
    except (CorruptPayload, UnicodeDecodeError):
        return None


def _dropped(database: sqlite3.Connection) -> int:
    """Zero where the number itself is damaged."""
    (found,) = database.execute("SELECT TOTAL(count) FROM dropped").fetchone()
    return int(found) if math.isfinite(found) else 0


def _drop_oldest(database: sqlite3.Connection) -> None:
    database.execute(f"DELETE FROM kept WHERE id = {_OLDEST}")
    database.execute("UPDATE dropped SET count = ?", (_dropped(database) + 1,))
