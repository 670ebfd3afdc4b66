"""Image files that appear in a folder."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aligned_vq.images.formats import SUFFIXES
from edge_client.input.payload_source import SUFFIX
from edge_client.watch.source import Frame, SourceLost

_SUFFIXES = (*SUFFIXES, SUFFIX)
POLL_SECONDS = 0.25

_Version = tuple[int, int, int]
"""Size, modification time and inode of a file: differs between versions of the file."""


class Folder:
    """New image files of a folder as they appear; with `once`, the present ones, by name.

    The folder is listed when its modification time has changed at either of the last two polls. A
    new file is taken when its version is the same at two consecutive polls, that is, once it is
    written completely. Files that are present at the start are not new.

    Overwriting a file in place does not change the folder's modification time, so the new content
    is noticed only when something else appears; a file renamed into place is noticed.
    """

    def __init__(self, path: Path, *, once: bool = False) -> None:
        self.name = str(path)
        self._path = path
        self._once = once
        self._taken: dict[str, _Version] = {}
        self._number = 0
        with suppress(SourceLost):  # `frames` raises it again
            self._taken = {} if once else self._list()

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See `Source.frames`."""
        if self._once:
            yield from map(self._frame, sorted(self._list()))
            return
        last_two, pending = (-1, -1), dict[str, _Version]()
        while not stop.is_set():
            modified_ns = self._modified_ns()
            # The last two polls: a file that appears just after a poll may leave the folder with
            # the same modification time, as file systems have a coarse clock.
            names = pending if last_two == (modified_ns, modified_ns) else self._list()
            last_two = last_two[1], modified_ns
            versions = {
                name: version for name in names if (version := self._version(name)) is not None
            }
            new = {
                name: version
                for name, version in versions.items()
                if self._taken.get(name) != version
            }
            complete = [name for name, version in new.items() if pending.get(name) == version]
            for name in sorted(complete, key=lambda name: (new[name][1], name)):
                self._taken[name] = new.pop(name)
                yield self._frame(name)
            pending = new
            stop.wait(POLL_SECONDS)

    def _frame(self, name: str) -> Frame:
        self._number += 1
        path = self._path / name
        printable = name.encode(errors="replace").decode()  # a name may hold invalid UTF-8
        return Frame(self._number, lambda: path, printable)

    def _modified_ns(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error

    def _list(self) -> dict[str, _Version]:
        """Versions of all image and `.avq` files, hidden ones excluded."""
        try:
            names = os.listdir(self._path)
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error
        images = (name for name in names if name.lower().endswith(_SUFFIXES))
        return {
            name: version
            for name in images
            if not name.startswith(".") and (version := self._version(name)) is not None
        }

    def _version(self, name: str) -> _Version | None:
        """The version of a file; None if it is gone or not a regular file."""
        try:
            status = (self._path / name).stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return status.st_size, status.st_mtime_ns, status.st_ino
