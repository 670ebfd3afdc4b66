"""Folders replaced whole: at every moment there is the one before or the new one, never neither.

A folder is written beside its place (`staging`), synced, and exchanged with the one before in one
step. File systems that cannot exchange get two renames, and `recover` undoes the first if the
second never came.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from aligned_vq.errors import ConfigError
from aligned_vq.files import renameat2
from aligned_vq.files.atomic_file import PUBLIC_MODE
from aligned_vq.files.staging import is_unfinished, staged, sync

_FOLDER_MODE = 0o755
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
_MOUNTED = (errno.EBUSY, errno.EXDEV)


@contextmanager
def new_folder(
    path: str | Path, replaceable: Sequence[str], *, public: bool = True
) -> Iterator[Path]:
    """An empty folder to fill, elsewhere; at the end it takes its place.

    Nothing changes if the body raises. A link stays one: the folder that it points to is replaced.
    A folder that was there keeps its mode and, where possible, its owner.

    Args:
        path: in a folder that exists.
        replaceable: patterns of the names that a folder there may hold; see `check_replaceable`.
        public: every file in it gets mode 0644 less the umask; otherwise what the body gave it.

    Raises:
        ConfigError: what is there is not to be replaced.
        NotWritten: there is no room, or no right to write there.
    """
    target = Path(os.path.realpath(path))
    recover(target)
    check_replaceable(target, replaceable)
    with staged(target) as new:
        new.mkdir(mode=_FOLDER_MODE)
        yield new
        check_replaceable(target, replaceable)  # filling may have taken hours
        _finish(new, target, public)
        _put(new, target)
        sync(target.parent)


def check_replaceable(path: str | Path, replaceable: Sequence[str]) -> None:
    """Hold a place to what `new_folder` can replace: nothing, or a folder of known names only.

    Raises:
        ConfigError: it is no folder, holds something else, is a mount point, or this process
            works in it (it, and its shell, would go on in a folder that is no more).
    """
    target = Path(os.path.realpath(path))
    if not os.path.exists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"{path}: expected a folder or nothing, got a file; choose another name")
    if os.path.ismount(target):
        raise ConfigError(_mounted(target))
    if Path.cwd().is_relative_to(target):
        raise ConfigError(
            f"{path}: expected a folder that can be replaced, got the one that this runs in; run "
            "it from another folder"
        )
    strange = sorted(
        name
        for name in os.listdir(target)
        if not is_unfinished(name) and not any(fnmatchcase(name, own) for own in replaceable)
    )
    if strange:
        raise ConfigError(
            f"{path}: expected a new folder, or one with nothing but what is to be replaced, got "
            f"one with {', '.join(map(repr, strange[:3]))}; move that away, or name another folder"
        )


def recover(path: str | Path) -> None:
    """Put back the folder of a writer that was killed between two renames; readers call this
    first. Where nothing is missing, or nothing is there to be put back, nothing happens."""
    target = Path(os.path.realpath(path))
    if os.path.exists(target):
        return
    with suppress(OSError):
        lock = os.open(_aside(target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)  # a living writer is done in a moment
            if not os.path.exists(target):
                _aside(target).rename(target)
        finally:
            os.close(lock)


def _finish(new: Path, target: Path, public: bool) -> None:
    """Modes, and everything on disk."""
    mode = stat.S_IMODE(new.stat().st_mode)  # the umask was taken off by the system
    for folder, _, names in os.walk(new, topdown=False):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink():
                continue
            if public:
                path.chmod(mode & PUBLIC_MODE)
            sync(path)
        if public:
            Path(folder).chmod(mode)
        sync(Path(folder))
    if os.path.exists(target):
        before = target.stat()
        with suppress(PermissionError):
            os.chown(new, before.st_uid, before.st_gid)
        new.chmod(stat.S_IMODE(before.st_mode))


def _put(new: Path, target: Path) -> None:
    """The new folder to its place; one that was there is then at `new`, or gone."""
    while True:
        try:
            _put_once(new, target)
        except FileNotFoundError:
            if os.path.exists(target) or not os.path.exists(new):
                raise
        except OSError as error:
            if error.errno in _MOUNTED:
                raise ConfigError(_mounted(target)) from error
            raise
        else:
            return


def _put_once(new: Path, target: Path) -> None:
    """FileNotFoundError: another writer moved the one before away just now."""
    try:
        new.rename(target)  # onto nothing, or onto an empty folder
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        if not renameat2.exchange(new, target):
            _put_by_two_renames(new, target)


def _put_by_two_renames(new: Path, target: Path) -> None:
    aside = _aside(target)
    lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY)  # whoever recovers waits for it
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(aside, ignore_errors=True)  # its successor came into place
        target.rename(aside)
        try:
            new.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        sync(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(lock)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _mounted(target: Path) -> str:
    return (
        f"{target}: expected a folder that can be replaced whole, got a mount point; name a folder "
        "inside it"
    )
