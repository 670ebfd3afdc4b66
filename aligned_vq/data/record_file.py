"""Random access to the records of a JSON file that is too large for memory.

The first pass streams the file and saves the byte offsets of all records in an index. An access
parses only the requested records.
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
"""Checks a record and returns the numbers to store with it, or None to leave it out."""
_LOCATION_COLUMNS = ("number", "start", "end")
_TABLE_FORMAT = 1


class RecordFile:
    """The records of a JSON array for which `summary` is not None, by row, in the file's order.

    Args:
        path: The JSON file.
        workdir: Folder for the index, whose name is derived from `path` and `kind`.
        kind: Identifies `summary` and its version: each kind has an index.
        summary: Called once per record while the index is built. It may raise ConfigError for a
            malformed record, so that training does not start.
        columns: Number of values that `summary` returns.
        member: Key of the array in the file's object; None if the file is the array.

    Raises:
        ConfigError: The file cannot be read or parsed, has no record to use, or the index cannot be
            written.
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
        index_path = workdir / f"records-{name}.npz"
        # Stored in the index, whose name identifies only the path and the kind.
        key = json.dumps([_TABLE_FORMAT, kind, str(path.resolve()), *self._stamp])
        index = _load(index_path, key)
        if index is None:
            _log.info("indexing %s, %.0f MB", path, self._stamp[0] / 1e6)
            index = _build(path, summary, columns, member)
            _save(index_path, key, *index)
        table, left_out = index
        self.left_out = left_out
        """Number of records for which `summary` was None."""
        if not len(table):
            raise ConfigError(
                f"expected records to use in {path}, found none among {self.left_out}; "
                "name another file"
            )
        self._locations: Table = table[:, : len(_LOCATION_COLUMNS)]
        self.columns: Table = table[:, len(_LOCATION_COLUMNS) :]
        """The values of `summary`, int64 `[rows, columns]`."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._locations)

    def read(self, rows: Iterable[int]) -> list[Record]:
        """The records of some rows, parsed from the file.

        Raises:
            IndexError: There is no such row.
            ConfigError: The file is missing or has changed since it was indexed.
        """
        records = []
        try:
            # Opened for every call: a shared file position would be a race between threads and
            # between forked processes.
            with self.path.open("rb") as file:
                # Of the open file, which cannot be exchanged after the check.
                if _stamp(os.fstat(file.fileno())) != self._stamp:
                    raise ConfigError(
                        f"expected {self.path} as it was at the start, but it has changed since; "
                        "start again, and do not change the file while it is used"
                    )
                for row in rows:
                    number, start, end = self._locations[row].tolist()
                    file.seek(start)
                    fields = json.loads(file.read(end - start))
                    records.append(Record(self.path, number, start, end, fields))
        except OSError as error:
            raise ConfigError(
                f"expected {self.path} as it was at the start, got {error}; do not move the file "
                "while it is used"
            ) from error
        return records


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Size in bytes and modification time in ns, to detect a changed file."""
    return status.st_size, status.st_mtime_ns


def _build(path: Path, summary: Summary, columns: int, member: str | None) -> tuple[Table, int]:
    """The index of a file and the number of records left out."""
    numbers = array("q")  # 8 bytes per number; a list of integers takes several times as much
    left_out = 0
    for record in stream_records(path, member):
        values = summary(record)
        if values is None:
            left_out += 1
        else:
            numbers.extend((record.number, record.start, record.end, *values))
    table = np.array(numbers, np.int64).reshape(-1, len(_LOCATION_COLUMNS) + columns)
    return table, left_out


def _load(index_path: Path, key: str) -> tuple[Table, int] | None:
    """The saved index; None if it is missing, damaged or of another file."""
    try:
        with index_path.open("rb") as file, np.load(file) as arrays:
            if str(arrays["key"]) != key:
                return None
            table: Table = arrays["table"]
            return table, int(arrays["left_out"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        # A damaged index costs another pass over the file, no more.
        return None


def _save(index_path: Path, key: str, table: Table, left_out: int) -> None:
    try:
        index_path.parent.mkdir(parents=True, exist_ok=True)
        # Atomically, because another process may read the index at the same time.
        with new_file(index_path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(key), table=table, left_out=np.array(left_out))
    except OSError as error:
        raise ConfigError(
            f"expected to write an index in the work directory, got {error}; name a directory that "
            "can be written"
        ) from error
