"""Random access to the records of a JSON file too large to hold.

One streamed pass notes where every record lies; the table is kept for the next start, and each
access parses its own records.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.json_stream import Record, stream_records
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import new_file

_log = logging.getLogger(__name__)

Table = NDArray[np.int64]
Summary = Callable[[Record], tuple[int, ...] | None]
"""Checks a record; gives the numbers to keep of it, or None to leave it out."""
_PLACE = ("number", "start", "end")
_TABLE_FORMAT = 1


class RecordFile:
    """The records of a JSON array that `summary` lets pass, by row, in the file's order.

    Args:
        path: The JSON file.
        workdir: Where the table is kept, under a name made from `path` and `kind`.
        kind: Names `summary` and its version: another kind makes another table.
        summary: Called once per record while the table is made, so it also is the place to refuse
            a malformed one before training starts.
        columns: How many numbers `summary` gives.
        member: The key the array lies under; None where the file itself is the array.

    Raises:
        ConfigError: The file cannot be read or parsed, holds no record that passes, or the table
            cannot be written.
    """

    def __init__(
        self,
        path: Path,
        workdir: Path,
        kind: str,
        summary: Summary,
        columns: int = 0,
        member: str | None = None,
    ) -> None:
        self.path = path
        try:
            self._stamp = _stamp(path.stat())
        except OSError as error:
            raise ConfigError(
                f"expected a JSON file at {path}, got {error}; check path and permissions"
            ) from error
        name = hashlib.sha256(f"{kind}\n{path.resolve()}".encode()).hexdigest()[:16]
        kept = workdir / f"records-{name}.npz"
        key = json.dumps([_TABLE_FORMAT, kind, str(path.resolve()), *self._stamp])
        known = _load(kept, key)
        if known is None:
            _log.info("indexing %s, %.0f MB", path, self._stamp[0] / 1e6)
            known = _build(path, summary, columns, member)
            _save(kept, key, *known)
        table, left_out = known
        self.left_out = left_out
        """How many records `summary` left out."""
        if not len(table):
            raise ConfigError(
                f"expected records to use in {path}, found none among {self.left_out}; "
                "name another file"
            )
        self._places: Table = table[:, : len(_PLACE)]
        self.columns: Table = table[:, len(_PLACE) :]
        """What `summary` gave, `[rows, columns]` int64."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._places)

    def read(self, rows: Iterable[int]) -> list[Record]:
        """The records of some rows, parsed from the file.

        Raises:
            IndexError: There is no such row.
            ConfigError: The file is gone, or is not the one the table was made of.
        """
        records = []
        try:
            # Opened anew each time: no position to share between threads and processes.
            with self.path.open("rb") as file:
                if _stamp(os.fstat(file.fileno())) != self._stamp:
                    raise ConfigError(
                        f"expected {self.path} as it was at the start, but it has changed since; "
                        "start again, and leave the file alone meanwhile"
                    )
                for row in rows:
                    number, start, end = self._places[row].tolist()
                    file.seek(start)
                    fields = json.loads(file.read(end - start))
                    records.append(Record(self.path, number, start, end, fields))
        except OSError as error:
            raise ConfigError(
                f"expected {self.path} as it was at the start, got {error}; leave the file where "
                "it is meanwhile"
            ) from error
        return records


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Size in bytes and time of change in ns: what tells a file from its successor."""
    return status.st_size, status.st_mtime_ns


def _build(path: Path, summary: Summary, columns: int, member: str | None) -> tuple[Table, int]:
    numbers = array("q")  # 8 bytes a number while it grows, not an object each
    left_out = 0
    for record in stream_records(path, member):
        kept = summary(record)
        if kept is None:
            left_out += 1
        else:
            numbers.extend((record.number, record.start, record.end, *kept))
    table = np.array(numbers, np.int64).reshape(-1, len(_PLACE) + columns)
    return table, left_out


def _load(kept: Path, key: str) -> tuple[Table, int] | None:
    """The table, if it is there, whole and made of the same file."""
    try:
        with kept.open("rb") as file, np.load(file) as arrays:
            if str(arrays["key"]) != key:
                return None
            table: Table = arrays["table"]
            return table, int(arrays["left_out"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _save(kept: Path, key: str, table: Table, left_out: int) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with new_file(kept) as part, part.open("wb") as file:  # another run may start meanwhile
            np.savez(file, key=np.array(key), table=table, left_out=np.array(left_out))
    except OSError as error:
        raise ConfigError(
            f"expected to keep an index in the work directory, got {error}; name a directory that "
            "can be written"
        ) from error
