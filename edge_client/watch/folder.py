"""Pictures that appear in a folder."""

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

POLL_SECONDS = 0.25

_Shape = tuple[int, int, int]


class Folder:
    """New pictures of a folder as they appear, or, `once`, those that are there, by name.

    The folder is listed while its time of change is not that of the last two looks. A new file is
    taken once its size and time were the same at two looks: while it is being written they are not.
    A file that is written anew under its old name leaves the folder's time as it is, so it is not
    seen before something else appears; one that is renamed to it is. What is there when the folder
    is first named is not new.
    """

    def __init__(self, path: Path, *, once: bool = False) -> None:
        self.name = str(path)
        self._path = path
        self._once = once
        self._known: dict[str, _Shape] = {}
        self._number = 0
        with suppress(SourceLost):  # told of when frames are asked for
            self._known = {} if once else self._listed()

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See `Source.frames`."""
        if self._once:
            yield from map(self._frame, sorted(self._listed()))
            return
        looks, waiting = (-1, -1), dict[str, _Shape]()
        while not stop.is_set():
            changed_at = self._changed_at()
            # Twice, as what appears just after a look may share its tick of the clock.
            found = waiting if looks == (changed_at, changed_at) else self._listed()
            looks = looks[1], changed_at
            shapes = {name: shape for name in found if (shape := self._shape(name)) is not None}
            new = {name: shape for name, shape in shapes.items() if self._known.get(name) != shape}
            settled = [name for name, shape in new.items() if waiting.get(name) == shape]
            for name in sorted(settled, key=lambda name: (new[name][1], name)):
                self._known[name] = new.pop(name)
                yield self._frame(name)
            waiting = new
            stop.wait(POLL_SECONDS)

    def _frame(self, name: str) -> Frame:
        self._number += 1
        path = self._path / name
        shown = name.encode(errors="replace").decode()  # bytes of a name may be no text
        return Frame(self._number, lambda: path, shown)

    def _changed_at(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error

    def _listed(self) -> dict[str, _Shape]:
        try:
            names = os.listdir(self._path)
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error
        wanted = (name for name in names if name.lower().endswith((*SUFFIXES, SUFFIX)))
        return {
            name: shape
            for name in wanted
            if not name.startswith(".") and (shape := self._shape(name)) is not None
        }

    def _shape(self, name: str) -> _Shape | None:
        """What changes when a file does; None if it is gone, or a folder, a pipe or a device."""
        try:
            found = (self._path / name).stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return found.st_size, found.st_mtime_ns, found.st_ino
