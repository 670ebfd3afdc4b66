"""Staging folders: hidden folders next to a target, in which its replacement is written.

A staging folder is private and locked by its writer. The lock ends with the process, so the next
writer to the same target recognises and removes the folders that killed writers left.
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
_MAX_NAME_CHARS = 40  # of the target's name, so that the folder's name is not too long
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


class NotWritten(OSError):
    """A file or folder could not be written; the old one is unchanged."""

    def __str__(self) -> str:
        """The message, with a remedy."""
        return (
            f"expected to write {self.filename}, got: {self.strerror}; nothing has been changed: "
            "free some space, check the permissions, or choose another path"
        )


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A context with a path in a staging folder, named as the target and on its file system.

    On exit the staging folder is removed, with whatever it still contains.

    Raises:
        NotWritten: the body raised an OSError or safetensors' counterpart of one.
    """
    try:
        _remove_unfinished(target)
        folder, lock = _create_folder(target)
        try:
            yield folder / target.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    except (OSError, SafetensorError) as error:
        raise _not_written(target, error) from error


def is_unfinished(name: str) -> bool:
    """Whether this is the name of a staging folder, in use or left by a killed writer."""
    return _UNFINISHED.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def _create_folder(target: Path) -> tuple[Path, int | None]:
    """A new staging folder and the descriptor that holds its lock; None: locks not supported."""
    while True:
        name = f".{target.name[:_MAX_NAME_CHARS]}.{secrets.token_hex(6)}.unfinished"
        folder = target.with_name(name)
        folder.mkdir(mode=0o700)
        try:
            lock = _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another writer took it for a leftover before it was locked
        except OSError:
            return folder, None  # without locks, no writer removes another's folder
        if folder.is_dir():
            return folder, lock
        os.close(lock)  # removed between `mkdir` and the lock


def _remove_unfinished(target: Path) -> None:
    """Remove staging folders that killed writers of this target left, as far as permitted."""
    prefix = f".{target.name[:_MAX_NAME_CHARS]}."
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if not (is_unfinished(name) and name.startswith(prefix)):
                continue
            with suppress(OSError):
                lock = _lock(target.with_name(name))
                try:
                    # Root could remove other users' folders, but must not.
                    if os.fstat(lock).st_uid == os.geteuid():
                        shutil.rmtree(target.with_name(name), ignore_errors=True)
                finally:
                    os.close(lock)


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock; BlockingIOError if another process holds it."""
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
    match = _SYSTEM_ERROR.search(str(error))
    number = int(match[1]) if match else errno.EIO
    return NotWritten(number, os.strerror(number) if match else str(error), str(target))
