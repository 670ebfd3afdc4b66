"""Atomic replacement of folders: at every moment, the path is the old folder or the new one.

A folder is written in a staging folder next to its target, synced, and exchanged with the old one
by a single rename. On file systems without that operation two renames are used, and `recover`
undoes the first one if the writer was killed before the second.
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
    """A context with an empty temporary folder; on exit, that folder replaces `path`.

    If the body raises, `path` is unchanged. If `path` is a symbolic link, the folder that it points
    to is replaced. The new folder takes the old one's mode and, if permitted, its owner.

    Args:
        path: in an existing folder.
        replaceable: patterns of the names that the old folder may contain.
        public: give every file mode 0644 minus the umask; otherwise modes are left as they are.

    Raises:
        ConfigError: `check_replaceable` rejects the old folder.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    target = Path(os.path.realpath(path))
    recover(target)
    check_replaceable(target, replaceable)
    with staged(target) as new:
        new.mkdir(mode=_FOLDER_MODE)
        yield new
        check_replaceable(target, replaceable)  # the body may have taken hours
        _set_modes_and_sync(new, target, public)
        _replace(new, target)
        sync(target.parent)


def check_replaceable(path: str | Path, replaceable: Sequence[str]) -> None:
    """Check that a path does not exist or is a folder with replaceable names only.

    Raises:
        ConfigError: it is not a folder, has other names in it, is a mount point, or contains the
            working directory (this process and its shell would stay in a deleted folder).
    """
    target = Path(os.path.realpath(path))
    if not os.path.exists(target):
        return
    if not target.is_dir():
        raise ConfigError(f"{path}: expected a folder or nothing, got a file; choose another name")
    if os.path.ismount(target):
        raise ConfigError(_mount_point_message(target))
    if Path.cwd().is_relative_to(target):
        raise ConfigError(
            f"{path}: expected a folder that can be replaced, got the working directory; run "
            "the command from another folder"
        )
    unexpected = sorted(
        name
        for name in os.listdir(target)
        if not is_unfinished(name)
        and not any(fnmatchcase(name, pattern) for pattern in replaceable)
    )
    if unexpected:
        raise ConfigError(
            f"{path}: expected a new folder, or one with replaceable files only, got one with "
            f"{', '.join(map(repr, unexpected[:3]))}; move these away, or name another folder"
        )


def recover(path: str | Path) -> None:
    """Restore the folder of a writer that was killed between its two renames, if there is one.

    Readers call this before they open a folder.
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(target):
        return
    with suppress(OSError):
        lock = os.open(_backup_path(target), os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                # A writer that is alive holds the lock until its second rename is done.
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(target):
                _backup_path(target).rename(target)
        finally:
            os.close(lock)


def _set_modes_and_sync(new: Path, target: Path, public: bool) -> None:
    mode = stat.S_IMODE(new.stat().st_mode)  # without the umask, which the system subtracted
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
        old = target.stat()
        with suppress(PermissionError):
            os.chown(new, old.st_uid, old.st_gid)
        new.chmod(stat.S_IMODE(old.st_mode))


def _replace(new: Path, target: Path) -> None:
    """Move `new` to `target`; an old folder is afterwards at `new` or deleted."""
    while True:
        try:
            _try_replace(new, target)
        except FileNotFoundError:
            if os.path.exists(target) or not os.path.exists(new):
                raise
            # Another writer is between its two renames: try again.
        except OSError as error:
            if error.errno in _MOUNTED:
                raise ConfigError(_mount_point_message(target)) from error
            raise
        else:
            return


def _try_replace(new: Path, target: Path) -> None:
    """Raises FileNotFoundError if another writer has just moved the old folder away."""
    try:
        new.rename(target)  # succeeds if the target does not exist or is an empty folder
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        if not renameat2.exchange(new, target):
            _replace_by_two_renames(new, target)


def _replace_by_two_renames(new: Path, target: Path) -> None:
    backup = _backup_path(target)
    lock = os.open(target, os.O_RDONLY | os.O_DIRECTORY)  # `recover` waits for this lock
    try:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A backup of a killed writer is obsolete, because the target exists.
        shutil.rmtree(backup, ignore_errors=True)
        target.rename(backup)
        try:
            new.rename(target)
        except BaseException:
            backup.rename(target)
            raise
        sync(target.parent)
        shutil.rmtree(backup, ignore_errors=True)
    finally:
        os.close(lock)


def _backup_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _mount_point_message(target: Path) -> str:
    return (
        f"{target}: expected a folder that can be replaced whole, got a mount point; name a folder "
        "inside it"
    )
