"""Where files and folders are written before they take their place: a locked folder beside it.

The folder is hidden and private. Its lock ends with its writer, so the next one who writes to the
same place can tell what a killed writer left from what a living one is at, and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{12}\.unfinished", re.DOTALL)
_SHOWN_CHARS = 40  # of the target's name: together they must not be longer than names may be
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


class NotWritten(OSError):
    """Something could not be written; what was there before is as it was."""

    def __str__(self) -> str:
        """What was expected, what came, what to do."""
        return (
            f"expected to write {self.filename}, got: {self.strerror}; nothing there has changed: "
            "free some space or check who may write there, or choose another place"
        )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path of the target's name on its file system, for what is to take its place. Whatever is
    there at the end is removed.

    Raises:
        NotWritten: for any OSError inside, and for safetensors' form of it.
    """
    try:
        _remove_unfinished(target)
        folder, lock = _locked_folder(target)
        try:
            yield folder / target.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    except (OSError, SafetensorError) as error:
        raise _not_written(target, error) from error


def is_unfinished(name: str) -> bool:
    """Whether an entry of a folder is one of these, of a living writer or a killed one."""
    return _UNFINISHED.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Return once a file's content, or the entries of a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know it for files only
            raise
    finally:
        os.close(handle)


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    """A new folder, and a descriptor that holds its lock; None where there are no locks."""
    while True:
        name = f".{target.name[:_SHOWN_CHARS]}.{secrets.token_hex(6)}.unfinished"
        folder = target.with_name(name)
        folder.mkdir(mode=0o700)
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # taken for a leftover before it was locked
        except OSError:
            return folder, None  # nobody can lock it, so nobody removes it
        if folder.is_dir():
            return folder, lock
        os.close(lock)


def _remove_unfinished(target: Path) -> None:
    """Remove what killed writers of this target left; what cannot be removed stays."""
    start = f".{target.name[:_SHOWN_CHARS]}."
    with suppress(OSError):
        names = [name for name in os.listdir(target.parent) if is_unfinished(name)]
        for name in (own for own in names if own.startswith(start)):
            with suppress(OSError):
                lock = _lock(target.with_name(name))
                try:
                    if os.fstat(lock).st_uid == os.geteuid():
                        shutil.rmtree(target.with_name(name), ignore_errors=True)
                finally:
                    os.close(lock)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock; BlockingIOError: another one does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _not_written(target: Path, error: OSError | SafetensorError) -> NotWritten:
    if isinstance(error, OSError):
        return NotWritten(error.errno, error.strerror or str(error), str(target))
    found = _SYSTEM_ERROR.search(str(error))
    number = int(found[1]) if found else errno.EIO
    return NotWritten(number, os.strerror(number) if found else str(error), str(target))
